"""How well one quantity alone orders the scores: leave-one-configuration-out R² of a smooth curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeper.evidence.linear import Basis, design, least_squares, share

from .tables import Array

# columns of the spline; more of them than the scores bear out would punish an axis for its curve's wiggles
FREEDOMS = (1, 2, 3, 4, 5)
FEWEST = 8


@dataclass(frozen=True)
class Alignment:
    """One axis and how well a smooth curve along it predicts a configuration that was left out.

    Attributes:
        name: A knob or a definition of noise.
        label: For people.
        r2: 1 is perfect, 0 no better than the mean, below 0 worse; None where it cannot be told.
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


@dataclass(frozen=True)
class Smooth:
    """A smooth curve along one axis.

    Attributes:
        basis: Its natural spline, of the freedom with the smallest left-out errors.
        residual: What the curve leaves of each point.
        r2: Leave-one-out R²; None for fewer than `FEWEST` points, or a constant.
    """

    basis: Basis
    residual: Array
    r2: float | None


def fit(x: Array, y: Array) -> Smooth:
    """Fit a smooth curve along `x` to `y`, at least two points.

    Source: left-out errors: Hastie, Tibshirani & Friedman 2009, eq. 7.64.
    """
    tried: list[tuple[float, Basis, Array]] = []
    for freedom in FREEDOMS:
        basis = Basis.of(x, freedom)
        found = least_squares(design(basis(x)), y)
        tried.append((float(np.sum(found.left_out**2)), basis, found.residuals))
    error, basis, residual = min(tried, key=lambda t: t[0])
    known = len(x) >= FEWEST and np.ptp(x) > 0 and np.ptp(y) > 0
    return Smooth(basis, residual, share(error, y) if known else None)


def left_out_r2(x: Array, y: Array) -> float | None:
    """Return the leave-one-out R² of a smooth curve along `x`; None for too few points or a constant."""
    return fit(x, y).r2 if len(x) >= FEWEST else None


def smooth(x: Array, y: Array, points: int = 60) -> tuple[Array, Array]:
    """Return the smooth curve along `x` as places and heights; over up to four levels, at these alone."""
    levels, basis = np.unique(x), fit(x, y).basis
    places = levels if len(levels) <= 4 else np.linspace(levels[0], levels[-1], points)
    columns, at = (np.column_stack([np.ones(len(v)), basis(v)]) for v in (x, places))
    return places, at @ np.linalg.lstsq(columns, y, rcond=None)[0]
