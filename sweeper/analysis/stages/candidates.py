"""Candidates of the stage confirm: the leading configurations, and settings that the model recommends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import pyarrow as pa

from search_spaces import Space
from sweeper.analysis.best import find_over_limits, rank_configurations
from sweeper.analysis.posterior import rank_by_posterior
from sweeper.analysis.settings.recommendation import recommend_settings
from sweeper.analysis.stages.designed import mark_proxy
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.search.objectives import resolve_objective
from trainables.spec import PairSpec

STEP = 4
"""Factor between two batch sizes whose settings are candidates."""
LEADER, SETTINGS = "leader", "settings"
"""Origins of a candidate: a finished configuration, or settings that the model recommends."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that fresh pairs compare with others.

    Attributes:
        params: Value of every knob that acts.
        origin: `leader` or `settings`.
    """

    params: Mapping[str, Any]
    origin: str


def choose_candidates(spec: SweepSpec, space: Space, trials: pa.Table, count: int) -> list[Candidate]:
    """Return the candidates of a sweep, the most promising first, without duplicates.

    The leading configuration comes first, then the recommended settings and those at another batch size, then further
    leaders and batch sizes in turn. Leaders are ranked by posterior mean, without a model by observed mean. A proxy's
    trials lead only if none with the full training budget can.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Its trials so far.
        count: Largest number of candidates, at least 1.

    Raises:
        SpecError: No configuration may win, so nothing can be confirmed.
    """
    leaders = (Candidate(p, LEADER) for p in _find_leaders(spec, space, trials, count))
    settings = (Candidate(p, SETTINGS) for p in _find_settings(spec, space, trials, count))
    chosen: dict[str, Candidate] = {}
    for candidate in _take_turns(leaders, settings):
        if len(chosen) == count:
            break
        chosen.setdefault(space.build(candidate.params, seed=spec.seed).config, candidate)
    if not chosen:
        raise SpecError("no configuration is viable in all its repeats, so there is none to confirm")
    return list(chosen.values())


def _take_turns(leaders: Iterator[Candidate], settings: Iterator[Candidate]) -> Iterator[Candidate]:
    """Yield a leader, two settings, then leaders and settings in turn."""
    # settings are costly, so each is made when it is taken
    yield from islice(leaders, 1)
    yield from islice(settings, 2)
    for pair in zip_longest(leaders, settings):
        yield from (candidate for candidate in pair if candidate is not None)


def _find_leaders(spec: SweepSpec, space: Space, trials: pa.Table, count: int) -> Iterator[Mapping[str, Any]]:
    specs = dict(zip(trials["config"].to_pylist(), trials["spec"].to_pylist(), strict=True))
    lost = find_over_limits(trials, spec)
    goal = resolve_objective(spec.objective, trials)
    ranked = [s.config for s in rank_configurations(trials, goal, lost)]
    if not ranked and mark_proxy(trials).any():
        same = trials.drop_columns(["proxy"])
        ranked = [s.config for s in rank_configurations(same, goal, lost)]
    model = [config for config in rank_by_posterior(spec, space, trials, count + len(lost)) if config in ranked]
    for config in list(dict.fromkeys([*model, *ranked]))[:count]:
        yield space.params_of(PairSpec.from_json(specs[config]))


def _find_settings(spec: SweepSpec, space: Space, trials: pa.Table, count: int) -> Iterator[Mapping[str, Any]]:
    """Yield the settings that the model recommends, then those at a batch size that differs by `STEP`."""
    sizes: list[int | None] = [None]
    while sizes and count > 0:
        try:
            found = recommend_settings(spec, space, trials, batch_size=sizes.pop(), seed=spec.seed)
        except SpecError:  # too few viable trials, or none with this batch size
            continue
        yield found.params
        count -= 1
        if len(found.fixed) == 0 and "batch_size" in space.knobs:
            sizes = _neighbour_sizes(space.knobs["batch_size"], found.params.get("batch_size"))


def _neighbour_sizes(knob: Any, size: Any) -> list[int | None]:
    """Return the batch sizes of the space nearest to `STEP` times `size` and its `STEP`-th part, the larger first."""
    if not isinstance(size, int):
        return []
    wanted = (size / STEP, size * STEP)
    if hasattr(knob, "choices"):
        known = [c for c in knob.choices if isinstance(c, int)]
        near = [min(known, key=lambda c: abs(math.log(c / w))) for w in wanted] if known else []
    else:
        near = [round(w) for w in wanted if knob.low <= round(w) <= knob.high]
    return [n for n in dict.fromkeys(near) if n != size]
