"""Ends of the best noise's interval, without noises whose configurations are significantly worse.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
x, z    log noise and objective of a configuration, larger is better; levels are noises that agree to 6 digits
m, s    mean and standard deviation of the k configurations nearest to the centre, bad tail raised
======  ============================================================================================

A one-sided test compares each level inside the interval with the centre: t = (m − a)/(s √(v/n + 1/k)) with k − 1
degrees of freedom. The test runs with the level's own n values and again with its neighbours' values included. One
collapse among good configurations therefore does not decide. The average a is the mean (v = 1), or from three values
on the median (v = π/2). The trim removes levels that Holm's procedure rejects, from both ends inwards. If the best
noise is at least as good as the centre, the trim loses it with probability 5 % at most.

Source: Holm 1979, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6, 65.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
FEWEST_NEAR = 5
LEVEL = 0.05


def trim_interval(x: Array, z: Array, raised: Array, centre: float, low: float, high: float) -> tuple[float, float]:
    """Return the interval of the best log noise without the significantly worse noises at its ends.

    Args:
        x: Log noises in ascending order.
        z: Objective, larger is better.
        raised: The objective with its bad tail raised, see `sweeper.analysis.regime.tail_floors`.
        centre: The best log noise.
        low: Lower end, at most `centre`.
        high: Upper end, at least `centre`.
    """
    places, level = np.unique(x.round(6), return_inverse=True)
    inside = (places >= low - 1e-6) & (places <= high + 1e-6)
    worse = np.zeros(len(places), dtype=bool)
    worse[inside] = holm(np.array([_p_value(x, z, raised, level, int(i), centre) for i in np.flatnonzero(inside)]))
    return -_cut(-places[::-1], worse[::-1], -centre, -low), _cut(places, worse, centre, high)


def holm(p: Array, alpha: float = LEVEL) -> Mask:
    """Return which hypotheses Holm's procedure rejects at a family-wise level."""
    order = np.argsort(p, kind="stable")
    kept = np.flatnonzero(p[order] > alpha / np.arange(len(p), 0, -1))
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order[: kept[0] if len(kept) else len(p)]] = True
    return rejected


def _p_value(x: Array, z: Array, raised: Array, level: NDArray[np.int64], i: int, centre: float) -> float:
    near = np.argsort(np.abs(x - centre), kind="stable")[: max(FEWEST_NEAR, len(x) // 8)]
    spread = float(raised[near].std(ddof=1)) if len(near) > 1 else 0.0
    if spread <= 0:
        return 1.0
    middle, number = float(raised[near].mean()), len(near)
    p_values = [
        _tail(middle, spread, number, values)
        for values in (z[level == i], z[np.abs(level - i) <= 1])
        if len(values) > 0
    ]
    return min(1.0, 2.0 * min(p_values))


def _tail(middle: float, spread: float, number: int, values: Array) -> float:
    n = len(values)
    average, variance = (float(np.median(values)), math.pi / 2) if n >= 3 else (float(values.mean()), 1.0)
    return float(stats.t.sf((middle - average) / (spread * math.sqrt(variance / n + 1 / number)), number - 1))


def _cut(places: Array, worse: Mask, centre: float, end: float) -> float:
    """Return the upper end after the trim: half-way between the last kept and the first removed level."""
    at = np.flatnonzero((places > centre) & (places <= end + 1e-6))
    last = len(at)
    while last and worse[at[last - 1]]:
        last -= 1
    if last == len(at):
        return end
    kept = float(places[at[last - 1]]) if last else centre
    return (kept + float(places[at[last]])) / 2
