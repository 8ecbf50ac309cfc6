"""Knobs that move the best noise: one optimum per value of the knob, and which values differ.

One pooled optimum assumes that the noise alone decides. If the optima of a knob's values differ, the pooled optimum is
an average over the tried values and holds for none of them.

Two values differ if all of these hold:

- Their 90 % intervals are disjoint.
- Each optimum lies inside the other value's range of noises.
- The difference is significant over all pairs of all knobs (two-sided p < .05, Holm). The errors in log noise are the
  intervals' widths, and at least the distance between neighbouring noises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sweeper.analysis.curve.interval import holm
from sweeper.formatting import name_knob, number

Array = NDArray[np.float64]
Locate = Callable[[Array, Array], tuple[float, float, float] | None]
"""(ascending log noises, scores) -> (optimum, low, high); None without an optimum."""
MOST_VALUES = 5
"""A knob with more values than this is split at its median."""
WIDTH = 2 * 1.645


@dataclass(frozen=True)
class KnobOptimum:
    """The best noise at one value of a knob, or on one side of its median.

    Attributes:
        value: `1e-4`, `<= 0.01` or `> 0.01`.
        n: Number of configurations.
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
        at: One optimum per value, of the values that have one.
    """

    knob: str
    at: tuple[KnobOptimum, ...]

    @property
    def sentence(self) -> str:
        """The finding as a phrase that starts with `differs by`."""
        parts = [f"{a.value}: {number(a.optimum)} ({number(a.low)} to {number(a.high)})" for a in self.at]
        return f"differs by {name_knob(self.knob).short}: {', '.join(parts)}"


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
    """Return the knobs that move the best noise, with one optimum per value.

    Args:
        x: Log noises in ascending order.
        z: Objective, larger is better.
        knobs: Knob -> its values in the same order; a knob with a missing value is ignored.
        locate: Function that finds an optimum.
    """
    groups_of: dict[str, list[_Group]] = {}
    for knob, values in knobs.items():
        groups = [
            _Group(text, int(rows.sum()), place, (float(x[rows].min()), float(x[rows].max())), _step(x[rows]))
            for text, rows in _split(values)
            if (place := locate(x[rows], z[rows])) is not None
        ]
        if len(groups) > 1:
            groups_of[knob] = groups
    pairs = [
        (knob, a, b) for knob, groups in groups_of.items() for a, b in combinations(groups, 2) if _can_compare(a, b)
    ]
    rejected = holm(np.array([_p_value(a, b) for _, a, b in pairs]))
    moving = [knob for (knob, a, b), worse in zip(pairs, rejected, strict=True) if worse and _are_disjoint(a, b)]
    return tuple(
        KnobEffect(knob, tuple(KnobOptimum(g.value, g.n, *(math.exp(v) for v in g.place)) for g in groups))
        for knob, groups in groups_of.items()
        if knob in moving
    )


def _step(x: Array) -> float:
    # the distance between tried noises bounds the precision of an optimum
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
