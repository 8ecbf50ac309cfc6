"""Whether a knob moves the best noise: the optimum per value, and which of their intervals are disjoint.

One pooled optimum says that the noise alone decides. Where the optima of a knob's values differ, it is an average over
the values that were tried, and of none of them.

Two values differ where their 90 % intervals are disjoint, each one's optimum lies inside the noises that the other has,
and the difference is significant over all pairs of all knobs (two-sided p < .05, Holm), with the intervals' widths, and
at least the distance between neighbouring noises, as errors in log noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweeper.analysis.interval import holm
from sweeper.formatting import FACTORS, number

Array = NDArray[np.float64]
Locate = Callable[[Array, Array], tuple[float, float, float] | None]
"""Log noises in ascending order and scores -> optimum and ends of its interval; None where there is none."""
MOST_VALUES = 5
"""Values of a knob above which it is split at its median."""
WIDTH = 2 * 1.645
NAMES = {**FACTORS, "momentum": "μ", "augmentation_strength": "augmentation strength"}


@dataclass(frozen=True)
class KnobOptimum:
    """The best noise at one value of a knob, or at values up to or above one.

    Attributes:
        value: `1e-4`, `<= 0.01` or `> 0.01`.
        n: Configurations.
        optimum, low, high: Best noise and its 90 % interval.
    """

    value: str
    n: int
    optimum: float
    low: float
    high: float


@dataclass(frozen=True)
class KnobEffect:
    """A knob that moves the best noise.

    Attributes:
        knob: Its name.
        at: The optimum at each of its values that has one.
    """

    knob: str
    at: tuple[KnobOptimum, ...]

    @property
    def sentence(self) -> str:
        """The finding, beginning with `differs by`."""
        parts = [f"{a.value}: {number(a.optimum)} ({number(a.low)} to {number(a.high)})" for a in self.at]
        return f"differs by {NAMES.get(self.knob, self.knob)}: {', '.join(parts)}"


@dataclass(frozen=True)
class _Group:
    value: str
    n: int
    place: tuple[float, float, float]
    reach: tuple[float, float]
    step: float


def find_knob_effects(
    x: Array, z: Array, knobs: Mapping[str, Sequence[float | str | None]], locate: Locate
) -> tuple[KnobEffect, ...]:
    """Return the knobs that move the best noise, with the optimum at each value.

    Args:
        x: Log noises in ascending order.
        z: Objective, larger is better.
        knobs: Knob -> its value at each of these; one with a missing value is left out.
        locate: Finds an optimum.
    """
    found: dict[str, list[_Group]] = {}
    for knob, values in knobs.items():
        groups = [
            _Group(text, int(rows.sum()), place, (float(x[rows].min()), float(x[rows].max())), _step(x[rows]))
            for text, rows in _split(values)
            if (place := locate(x[rows], z[rows])) is not None
        ]
        if len(groups) > 1:
            found[knob] = groups
    pairs = [(knob, a, b) for knob, groups in found.items() for a, b in combinations(groups, 2) if _can_compare(a, b)]
    rejected = holm(np.array([_p_value(a, b) for _, a, b in pairs]))
    apart = [knob for (knob, a, b), worse in zip(pairs, rejected, strict=True) if worse and _are_disjoint(a, b)]
    return tuple(
        KnobEffect(knob, tuple(KnobOptimum(g.value, g.n, *(math.exp(v) for v in g.place)) for g in groups))
        for knob, groups in found.items()
        if knob in apart
    )


def _step(x: Array) -> float:
    # an optimum is known no better than the noises lie apart
    return float(np.ptp(x)) / max(len(np.unique(x.round(6))) - 1, 1)


def _split(values: Sequence[float | str | None]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    known = [v for v in values if v is not None]
    distinct = sorted(set(known), key=lambda v: (isinstance(v, str), v))
    if len(known) < len(values) or len(distinct) < 2:
        return
    if len(distinct) <= MOST_VALUES:
        for value in distinct:
            text = value if isinstance(value, str) else f"{value:g}"
            yield text, np.array([v == value for v in values])
    elif not any(isinstance(v, str) for v in distinct):
        numbers = np.array(values, dtype=float)
        middle = float(np.median(numbers))
        yield f"<= {middle:.3g}", numbers <= middle
        yield f"> {middle:.3g}", numbers > middle


def _can_compare(a: _Group, b: _Group) -> bool:
    return a.reach[0] <= b.place[0] <= a.reach[1] and b.reach[0] <= a.place[0] <= b.reach[1]


def _are_disjoint(a: _Group, b: _Group) -> bool:
    return a.place[2] < b.place[1] or b.place[2] < a.place[1]


def _p_value(a: _Group, b: _Group) -> float:
    error = math.hypot(*(max((g.place[2] - g.place[1]) / WIDTH, g.step) for g in (a, b)))
    return float(2 * stats.norm.sf(abs(a.place[0] - b.place[0]) / max(error, 1e-12)))
