"""Single-index model: a score as a smooth curve of one scalar of the knobs with free exponents.

    z(h) = f(ln S(h)) + e,   ln S(h) = columns(h) @ a

``a``  exponents; the first one is 1, since the curve absorbs the scale
``f``  natural cubic spline with 5 degrees of freedom

Source: Ichimura 1993, doi 10.1016/0304-4076(93)90114-K; natural splines: Hastie, Tibshirani & Friedman 2009, eq. 5.4
and 5.5; percentile interval: Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from sweeper.search.noise_sampler.encoding import FACTORS, Array

if TYPE_CHECKING:
    from sweeper.search.noise_sampler.level_sets import KnobSpace
    from sweeper.search.noise_sampler.study_attrs import Observations

FREEDOM = 5
MIN_CONFIGS = 12
DRAWS = 100
LIMITS = (-4.0, 4.0)
MOST_CONFIGS = 1000
"""Of more configurations, this number enters the fit, evenly spaced in the order of their coordinates."""


@cache
def _places(count: int, freedom: int) -> tuple[Array, Array]:
    # places of the knots among `count` values, and those of the values
    return np.linspace(0, count - 1, freedom + 1), np.arange(count, dtype=float)


@dataclass(frozen=True)
class Basis:
    """Basis of a natural cubic spline with knots between `low` and `high`; constant beyond."""

    knots: Array
    low: float
    high: float

    @staticmethod
    def of(x: Array, freedom: int = FREEDOM) -> Basis:
        """Return the basis with `freedom` columns, or fewer for few values, and knots at quantiles of `x`."""
        x = np.sort(x)
        low = float(x[0])
        x = x - low
        apart = x[1:] - x[:-1] > 1e-6
        count = int(np.count_nonzero(apart)) + 1
        freedom = max(1, min(freedom, count - 1))
        among = np.concatenate([x[:1], x[1:][apart]]) if count < 4 * freedom else x
        # ten times as fast as np.quantile, for thousands of fits per estimate
        knots = np.interp(*_places(len(among), freedom), among)
        knots = np.concatenate([knots[:1], knots[1:][knots[1:] != knots[:-1]]])  # in order, so this is np.unique
        span = max(knots[-1] - knots[0], 1e-12)
        return Basis((knots - knots[0]) / span, low + float(knots[0]), low + float(knots[-1]))

    def __call__(self, x: Array) -> Array:
        """Return the columns at `x`, shape (n, freedom)."""
        u = np.clip((x - self.low) / max(self.high - self.low, 1e-12), 0.0, 1.0)
        if len(self.knots) < 3:
            return u[:, None]
        # the last knot's term of eq. 5.5 is 0, as no data lie beyond it
        gap = np.maximum(u[:, None] - self.knots[:-1], 0.0)
        d = gap * gap * gap / (self.knots[-1] - self.knots[:-1])
        out = np.empty((len(u), len(self.knots) - 1))
        out[:, 0], out[:, 1:] = u, d[:, :-1] - d[:, -1:]
        return out


def best_index(columns: Array, z: Array, weight: Array, starts: list[Array]) -> tuple[Array, float]:
    """Return the exponents (the first is 1) whose index explains z best through a spline, and the R².

    Args:
        columns: Logarithms of the factors, shape (n, K).
        z: Objective, shape (n,).
        weight: Weights of z, shape (n,).
        starts: Initial exponents; the better half of them is refined.
    """
    total = float(np.sum(weight * (z - np.average(z, weights=weight)) ** 2))
    root = np.sqrt(weight)
    first, rest, target = columns[:, 0], columns[:, 1:], z * root

    def error(free: Array) -> float:
        axis = first + rest @ free
        basis = Basis.of(axis)(axis)
        x = np.empty((len(z), basis.shape[1] + 1))
        x[:, 0], x[:, 1:] = root, basis * root[:, None]
        residual = target - x @ np.linalg.lstsq(x, target, rcond=None)[0]
        return float(residual @ residual) / total

    order = sorted((s[1:] / s[0] for s in starts if s[0]), key=error)
    fits = [
        minimize(error, start, method="Nelder-Mead", bounds=[LIMITS] * len(start), options=_options(start, len(starts)))
        for start in order[: max(1, (len(order) + 1) // 2)]
    ]
    best = min(fits, key=lambda f: float(f.fun))
    return np.concatenate([[1.0], np.atleast_1d(best.x)]), 1.0 - float(best.fun)


def _options(start: Array, starts: int) -> dict[str, object]:
    # the first corners lie half an exponent away; a draw starts at the estimate and needs at most 120 evaluations
    corners = np.vstack([start, start + 0.5 * np.eye(len(start))])
    return {"initial_simplex": corners, "xatol": 5e-3, "fatol": 1e-6, "maxfev": 400 if starts > 1 else 120}


@dataclass(frozen=True)
class IndexFit:
    """Exponents of the index with intervals.

    Attributes:
        best: Exponents, shape (K,); the first is 1.
        low, high: Ends of the 90 % bootstrap intervals over configurations, shape (K,).
        r2: In-sample R².
    """

    best: Array
    low: Array
    high: Array
    r2: float


def has_enough(configs: int, exponents: int) -> bool:
    """Return whether the number of configurations suffices to estimate this many exponents."""
    return configs >= max(MIN_CONFIGS, 4 * exponents + 6)


def fit_index(
    columns: Array, z: Array, weight: Array, starts: Sequence[Array], *, draws: int = DRAWS, seed: int = 0
) -> IndexFit:
    """Return the exponents with 90 % intervals from a bootstrap over configurations.

    Args:
        columns: Logarithms of the factors, shape (n, K).
        z: Score per configuration, shape (n,).
        weight: Weight per configuration, shape (n,).
        starts: Initial exponents.
        draws: Number of bootstrap draws.
        seed: Seed of the bootstrap.
    """
    best, r2 = best_index(columns, z, weight, list(starts))
    rng = np.random.default_rng(seed)
    drawn: list[Array] = []
    for _ in range(draws):
        counts = rng.multinomial(len(z), np.full(len(z), 1 / len(z))).astype(float)
        seen = counts > 0
        drawn.append(best_index(columns[seen], z[seen], (counts * weight)[seen], [best])[0])
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    return IndexFit(best, low, high, r2)


def tail_floor(z: Array, size: Array, scatter: float) -> float | None:
    """Return the floor to which to raise bad repeats, since a few collapse far deeper than a hump is high.

    The floor lies three spreads below the good end (95 % quantile), or at the lower quartile if that is lower, and at
    most ten spreads below. A further two standard deviations of a repeat are subtracted. The spread is that of the best
    third, or three standard deviations of a mean of repeats. The floor ignores noise, so that it favours no definition.

    Args:
        z: Score per configuration, larger is better, shape (n,).
        size: Repeats per configuration, shape (n,).
        scatter: Standard deviation of a repeat about its configuration's mean.

    Returns:
        The floor; None for fewer than 3 configurations or scores without spread.
    """
    if len(z) < 3:
        return None
    top, third, quarter = (float(q) for q in np.quantile(z, [0.95, 2 / 3, 0.25]))
    spread = max(top - third, 3 * scatter / float(np.sqrt(size.mean())))
    if spread <= 0:
        return None
    return max(min(top - 3 * spread, quarter), top - 10 * spread) - 2.0 * scatter


def has_exponent(role: str) -> bool:
    """Return whether a factor of a knob space has an exponent; choices and the augmentation's strength have none."""
    return role in FACTORS or role == "k_aug"


@dataclass(frozen=True)
class TiltFit:
    """Refinements of a definition's exponents, per role of `roles`, with the ends of their 90 % intervals."""

    roles: tuple[str, ...]
    best: Array
    low: Array
    high: Array


def fit_tilts(space: KnobSpace, seen: Observations, tilt: Array, seed: int) -> TiltFit | None:
    """Return the exponents of the single-index model of `analyse`, relative to the definition's.

    At most `MOST_CONFIGS` configurations enter the fit.

    Args:
        space: The knob space.
        seen: Trials with a value; the first column of their losses counts.
        tilt: The surrogate's refinement, shape (k,). Choices without an order have no exponent and keep it.
        seed: Seed of the bootstrap.

    Returns:
        The fit; None without a noise, without a free exponent, for too few trials, or if all losses are equal.
    """
    free = np.array([has_exponent(role) for role in space.factor_roles], dtype=bool)
    configs, owner = np.unique(np.round(seen.unit, 10), axis=0, return_inverse=True)
    if space.pivot is None or not free.any() or not has_enough(len(configs), int(free.sum())):
        return None
    size, value = np.bincount(owner).astype(float), -seen.losses[:, 0]
    z = np.bincount(owner, value) / size
    within = np.bincount(owner, (value - z[owner]) ** 2)[size > 1] / (size[size > 1] - 1)
    floor = tail_floor(z, size, math.sqrt(float(np.median(within))) if len(within) else 0.0)
    z = z if floor is None else np.bincount(owner, np.maximum(value, floor)) / size
    if np.ptp(z) <= 0:
        return None
    if len(configs) > MOST_CONFIGS:  # 100 bootstrap fits would take minutes
        rows = np.linspace(0, len(configs) - 1, MOST_CONFIGS).astype(int)
        configs, z, size = configs[rows], z[rows], size[rows]
    points = space.points(configs)
    columns = np.column_stack([points.log_noise + points.factors[:, ~free] @ tilt[~free], points.factors[:, free]])
    starts = [np.concatenate([[1.0], part]) for part in (np.zeros(int(free.sum())), tilt[free])]
    fit = fit_index(columns, z, size, starts, seed=seed)
    roles = tuple(role for role, has in zip(space.factor_roles, free, strict=True) if has)
    return TiltFit(roles, fit.best[1:], fit.low[1:], fit.high[1:])
