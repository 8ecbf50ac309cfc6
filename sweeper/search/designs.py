"""Designs: random, quasi-random and grid configurations of a space."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from search_spaces._conditions import Conditions, active_params, acts
from sweeper.errors import SpecError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


Knobs = Mapping[str, "BaseDistribution"]


MOST_POINTS, MOST_CONDITIONAL = 1_000_000, 50_000
"""Maximum combinations of a grid's values, without and with conditions; conditions need one look per combination."""


_WORK = 1_000_000


# (knobs, seed, number, trials, conditions) -> parameters, including those of inactive knobs
Design = Callable[[Knobs, int, int, int, Conditions], "dict[str, Any]"]


def from_unit(distribution: Any, u: float) -> Any:
    """Return the value of an Optuna distribution at the quantile u in [0, 1)."""
    if hasattr(distribution, "choices"):
        return distribution.choices[min(int(u * len(distribution.choices)), len(distribution.choices) - 1)]
    low, high = distribution.low, distribution.high
    whole = isinstance(low, int) and isinstance(high, int)
    if whole:  # every whole number gets an equal share of the range
        low, high = low - 0.5, high + 0.5
    value = (
        math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if distribution.log else low + u * (high - low)
    )
    if whole:
        return min(max(round(value), distribution.low), distribution.high)
    if distribution.step is not None:
        value = distribution.low + distribution.step * round((value - distribution.low) / distribution.step)
    return min(max(value, distribution.low), distribution.high)


def random_design(knobs: Knobs, seed: int, number: int, trials: int, conditions: Conditions) -> dict[str, Any]:
    """Return point `number` of the random design: independent uniform draws."""
    import numpy as np

    u = np.random.default_rng([seed, number]).random(len(knobs))
    return {name: from_unit(d, float(v)) for (name, d), v in zip(knobs.items(), u, strict=True)}


def qmc_design(knobs: Knobs, seed: int, number: int, trials: int, conditions: Conditions) -> dict[str, Any]:
    """Return point `number` of the quasi-random design: a scrambled Sobol sequence."""
    from scipy.stats.qmc import Sobol

    engine = Sobol(len(knobs), rng=seed)
    # fast_forward(0) raises
    u = (engine.fast_forward(number) if number else engine).random(1)[0]
    return {name: from_unit(d, float(v)) for (name, d), v in zip(knobs.items(), u, strict=True)}


def levels(distribution: Any, count: int) -> list[Any]:
    """Return the choices of a categorical distribution, else `count` evenly spaced values, both ends included."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    low, high = float(distribution.low), float(distribution.high)
    share = [i / (count - 1) if count > 1 else 0.5 for i in range(count)]
    values = [low * (high / low) ** s if distribution.log else low + (high - low) * s for s in share]
    if isinstance(distribution.low, int) and isinstance(distribution.high, int):
        values = [round(v) for v in values]
    return list(dict.fromkeys(values))


def grid(knobs: Knobs, trials: int, conditions: Conditions = MappingProxyType({})) -> list[dict[str, Any]]:
    """Return the full grid: all choices of categorical knobs, and as many levels of the others as `trials` allow.

    Every knob has at least two levels, so a grid can be larger than `trials`. A point omits its inactive knobs.

    Raises:
        SpecError: The grid is too large.
    """
    return _make_grid(knobs, _shape(knobs, trials, conditions)[0], conditions)


def _make_grid(knobs: Knobs, count: int, conditions: Conditions) -> list[dict[str, Any]]:
    points: dict[str, dict[str, Any]] = {}  # keyed by repr, since a choice may be a dict
    for values in itertools.product(*(levels(d, count) for d in knobs.values())):
        point = active_params(dict(zip(knobs, values, strict=True)), conditions)
        points.setdefault(repr(point), point)
    return list(points.values())


def _shape(knobs: Knobs, trials: int, conditions: Conditions) -> tuple[int, int]:
    """Return a grid's levels per free knob and its number of points, without making the points, which is slow."""
    free = [d for d in knobs.values() if not hasattr(d, "choices")]
    fixed = math.prod(len(d.choices) for d in knobs.values() if hasattr(d, "choices"))  # type: ignore[attr-defined]
    count = max(2, math.floor((trials / fixed) ** (1 / len(free)) + 1e-9)) if free else 1
    most = MOST_CONDITIONAL if conditions else MOST_POINTS
    cells = fixed * count ** len(free)
    if cells > most:
        way = "name fewer values, or use sampler random"
        raise SpecError(f"sampler grid must have at most {most} combinations here, got {cells:.3g}; {way}")
    sizes = {name: len(levels(d, count)) for name, d in knobs.items()}
    if not conditions:
        return count, math.prod(sizes.values())
    others = _acting_sets(knobs, conditions)

    def points_of(sizes: Mapping[str, int]) -> int:
        return sum(times * math.prod(sizes[name] for name in names) for names, times in others.items())

    points, work = points_of(sizes), 0
    # with inactive knobs, points coincide and leave room for more levels
    while free and fixed * (count + 1) ** len(free) <= most and work < _WORK:
        larger = {name: levels(d, count + 1) for name, d in knobs.items()}
        more = points_of({name: len(values) for name, values in larger.items()})
        if more > trials or all(larger[name] == levels(d, count) for name, d in knobs.items()):
            break
        count, points = count + 1, more
        work += sum(map(len, larger.values())) + len(others)
    return count, points


def _acting_sets(knobs: Knobs, conditions: Conditions) -> Counter[tuple[str, ...]]:
    """Return set of knobs that act together -> number of points of the deciding knobs."""
    deciding = {n: d for n, d in knobs.items() if any(n in condition for condition in conditions.values())}
    seen, counts = set[str](), Counter[tuple[str, ...]]()
    for values in itertools.product(*(levels(d, 1) for d in deciding.values())):
        point = active_params(dict(zip(deciding, values, strict=True)), conditions)
        if (text := repr(point)) not in seen:
            seen.add(text)
            counts[tuple(n for n in knobs if n not in deciding and acts(n, point, conditions))] += 1
    return counts


def count_configs(sampler: str, knobs: Knobs, trials: int, conditions: Conditions = MappingProxyType({})) -> int:
    """Return the number of configurations that a sampler can propose; a grid may hold fewer than `trials`.

    Without knobs there is one configuration: a sweep of fixed settings, for its repeats.

    Raises:
        SpecError: The grid is too large.
    """
    if not knobs:
        return min(trials, 1)
    return min(trials, _shape(knobs, trials, conditions)[1]) if sampler == "grid" else trials


def grid_design(knobs: Knobs, seed: int, number: int, trials: int, conditions: Conditions) -> dict[str, Any]:
    """Return point `number` of the grid for this number of trials."""
    import numpy as np

    count, points = _shape(knobs, trials, conditions)
    # random order, so that a sweep that stops early covers the whole range
    index = int(np.random.default_rng(seed).permutation(points)[number])
    if conditions:
        return _make_grid(knobs, count, conditions)[index]
    point: dict[str, Any] = {}
    for name, distribution in reversed([*knobs.items()]):
        values = levels(distribution, count)
        index, place = divmod(index, len(values))
        point[name] = values[place]
    return {name: point[name] for name in knobs}
