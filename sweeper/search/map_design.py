"""Map of a search space: a design whose noises are evenly spread over the range in which pairs can merge.

No result chooses a point of the map, so the shape of a curve and its optimum may rest on it. Only the ends of its range
come from results: those of the pilots, which are not part of the map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import qmc

from search_spaces._conditions import Conditions
from sweeper.search.designs import Knobs
from sweeper.search.noise_sampler.candidates import find_range, reach_level, startup_point
from sweeper.search.noise_sampler.encoding import check_fixed, check_names
from sweeper.search.noise_sampler.level_sets import KAugOf, KnobSpace, make_knob_space
from trainables.noise import NOISE

REPEAT_EVERY = 8
"""One point of the map in this many repeats an earlier one, which measures the noise of a seed."""
REACH = 4.0
"""Log noise that the map covers below the best pilot: a factor of 55."""
DECLINE = 0.75
"""Share of the log noise that the map covers between the last pilot of use and the next one.

The decline beyond the best noise scatters more than the rise, so it needs more points.
"""
_TRIES = 32
_PILOT, _MAP = 0x9110, 0x3A9  # streams of the seed


@dataclass(frozen=True)
class Pilot:
    """A finished pilot.

    Attributes:
        log_noise: Its log noise.
        loss: Its objective, smaller is better; None without a valid result.
        collapsed: Whether its merge lost much against the parents.
    """

    log_noise: float
    loss: float | None
    collapsed: bool = False

    @property
    def merges(self) -> bool:
        """Whether the parents are viable and the merge did not collapse."""
        return self.loss is not None and not self.collapsed


class MapDesign:
    """Design of pilots and map points; each point is a function of the seed, its index and the viable range.

    Args:
        knobs: Parameter name -> distribution.
        noise: Name of a predicted noise.
        constants: Values of the formula that are not knobs.
        seed: Seed of the design.
        repeats: Whether points repeat earlier ones.
        k_aug: Parameters -> k_aug, for a noise that needs it.
        conditions: Knob -> {other knob: values for which the knob acts}.

    Raises:
        ValueError: The formula cannot use a knob.
    """

    def __init__(
        self,
        knobs: Knobs,
        noise: str,
        constants: Mapping[str, float],
        seed: int,
        repeats: bool = True,
        k_aug: KAugOf | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        self.space: KnobSpace = make_knob_space(
            dict(knobs), NOISE[noise], check_names(None), check_fixed(constants), k_aug, conditions or {}
        )
        self.seed, self.repeats = seed, repeats
        self.range = find_range(self.space)

    def pilot(self, index: int, count: int) -> dict[str, Any]:
        """Return the parameters of a pilot: their noises are the middles of `count` strata of the reachable range."""
        low, high = self.range
        draws = _draw(self.space, [self.seed, _PILOT], index)
        if self.space.pivot is None:
            return self.space.params_of(draws[0])
        target = low + (high - low) * (index + 0.5) / count
        return self.space.params_of(reach_level(self.space, draws, target, 0.02 * (high - low)))

    def log_noise(self, params: Mapping[str, Any]) -> float:
        """Return the log noise of a configuration."""
        unit, _ = self.space.units_of([params])
        return float(self.space.points(unit).log_noise[0]) if len(unit) else math.nan

    def find_mergeable_range(self, pilots: Sequence[Pilot]) -> tuple[float, float]:
        """Return the ends of the log noises of the map.

        The map shows the decline: its upper end lies at the share `DECLINE` of the way from the first pilot whose
        merge collapsed to the next pilot, or from the last mergeable one, if the next has unviable parents. A single
        collapse is no end, since it may lie close to the best noise. The lower end lies halfway to an unviable pilot,
        and at most `REACH` below the best pilot: far below it the gain is flat. Without a mergeable pilot the whole
        reachable range remains.
        """
        low, high = self.range
        known = sorted((p for p in pilots if math.isfinite(p.log_noise)), key=lambda p: p.log_noise)
        merging = [i for i, p in enumerate(known) if p.merges]
        if not merging:
            return low, high
        first, last = merging[0], merging[-1]
        if first > 0:
            low = (known[first - 1].log_noise + known[first].log_noise) / 2
        if last < len(known) - 1 and known[last + 1].collapsed:
            last += 1
        if last < len(known) - 1:
            high = known[last].log_noise + DECLINE * (known[last + 1].log_noise - known[last].log_noise)
        best = min((known[i] for i in merging), key=lambda p: p.loss or 0.0)
        return max(low, best.log_noise - REACH), high

    def point(self, index: int, span: tuple[float, float]) -> dict[str, Any]:
        """Return the parameters of point `index` of the map over a range of log noises."""
        return self.space.params_of(startup_point(self.space, self.seed ^ _MAP, self.base_index(index), span=span))

    def base_index(self, index: int) -> int:
        """Return the index of the first point with the same parameters, counted without repeats."""
        if not self.repeats:
            return index
        group, place = divmod(index, REPEAT_EVERY)
        fresh = REPEAT_EVERY - 1
        # the last point of a group repeats one of its group; steps of three spread their noises, since points whose
        # indices differ by a power of two lie close together
        return group * fresh + (place if place < fresh else 3 * group % fresh)


def _draw(space: KnobSpace, seed: Sequence[int], index: int) -> Any:
    engine = qmc.Sobol(len(space.knobs), rng=np.random.default_rng(seed))
    first = (engine.fast_forward(index) if index else engine).random(1)
    return np.concatenate([first, np.random.default_rng([*seed, index]).random((_TRIES - 1, len(space.knobs)))])
