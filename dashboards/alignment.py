"""How well one quantity alone orders the scores: leave-one-configuration-out R² of a smooth curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .tables import Array

KNOTS = (2, 3, 4, 5, 6)
FEW_LEVELS = 4
FEWEST = 8


@dataclass(frozen=True)
class Alignment:
    """One axis and how well a smooth curve along it predicts a configuration that was left out.

    Attributes:
        name: A knob or a definition of noise.
        label: For people.
        r2: 1 is perfect, 0 no better than the mean of the others, below 0 worse; None where it cannot be told.
        n: Configurations.
        levels: Different values among them.
        is_noise: Whether it is a definition of noise.
    """

    name: str
    label: str
    r2: float | None
    n: int
    levels: int
    is_noise: bool


def spline_basis(x: Array, knots: Array) -> Array:
    """Return the natural cubic spline's basis at `x`: constant, linear, and one column a further knot.

    Source: Hastie, Tibshirani & Friedman 2009, eq. 5.4 and 5.5.
    """
    cubes = np.maximum(x[:, None] - knots[None, :], 0.0) ** 3
    d = (cubes[:, :-1] - cubes[:, -1:]) / (knots[-1] - knots[:-1])
    return np.column_stack([np.ones_like(x), x, d[:, :-1] - d[:, -1:]])


def smooth_basis(x: Array, knots: int, at: Array | None = None) -> Array:
    """Return what a curve along `x` is made of: a mean for each of few levels, else a natural spline.

    Knots are quantiles of the levels, so that a crowded level does not take them all.

    Args:
        x: Places of the points.
        knots: Number of knots, at least 2.
        at: Where the basis is wanted, among the levels of `x` where they are few; at `x` by default.
    """
    levels, at = np.unique(x), x if at is None else at
    if len(levels) <= FEW_LEVELS:
        return np.asarray(at[:, None] == levels[None, :], dtype=float)
    first, span = levels[0], levels[-1] - levels[0]
    found = np.quantile((levels - first) / span, np.linspace(0, 1, min(knots, len(levels) - 1)))
    return spline_basis((at - first) / span, np.unique(found))


@dataclass(frozen=True)
class Fit:
    """A smooth curve along one axis: what it leaves at each point, with the point itself left out, and its R².

    Attributes:
        knots: Number of knots, of `KNOTS` the one with the smallest left-out errors.
        residual: What the curve through all points leaves of each.
        r2: Leave-one-out R²; None for fewer than `FEWEST` points, or a constant.
    """

    knots: int
    residual: Array
    r2: float | None


def fit(x: Array, y: Array) -> Fit:
    """Fit a smooth curve along `x` to `y`, at least two points.

    The error of a left-out point is its residual over 1 - h, h its leverage; it is compared with the mean of the
    others. A point that stands alone at its level (h = 1) is predicted by nothing and leaves the comparison.

    Source: Allen 1974, Technometrics 16(1), the prediction sum of squares.
    """
    plain = (y - y.mean()) * len(y) / (len(y) - 1)
    tried: list[tuple[float, int, Array, int]] = []
    for knots in KNOTS:
        basis = np.linalg.qr(smooth_basis(x, knots))[0]
        leverage = np.einsum("ij,ij->i", basis, basis)
        free = leverage < 1 - 1e-9
        residual = y - basis @ (basis.T @ y)
        total = float(np.sum(plain[free] ** 2))
        error = float(np.sum((residual[free] / (1 - leverage[free])) ** 2)) / total if total > 0 else np.inf
        tried.append((error, knots, residual, int(free.sum())))
    error, knots, residual, free = min(tried, key=lambda t: t[:2])
    known = free >= FEWEST and np.ptp(x) > 0 and np.isfinite(error)
    return Fit(knots, residual, 1.0 - error if known else None)


def left_out_r2(x: Array, y: Array) -> float | None:
    """Return the leave-one-out R² of a smooth curve along `x`; None for too few points or a constant, see `fit`."""
    return fit(x, y).r2 if len(x) >= FEWEST else None


def smooth(x: Array, y: Array, points: int = 60) -> tuple[Array, Array]:
    """Return the smooth curve along `x` as places and heights; the levels' means where there are few levels."""
    levels, knots = np.unique(x), fit(x, y).knots
    places = levels if len(levels) <= FEW_LEVELS else np.linspace(levels[0], levels[-1], points)
    weights = np.linalg.lstsq(smooth_basis(x, knots), y, rcond=None)[0]
    return places, smooth_basis(x, knots, places) @ weights
