"""Least squares with splines: natural cubic basis, leave-one-out by leverages, Wald tests with clustered errors.

======  ============================================================================================
symbol  meaning, for n rows and p columns
======  ============================================================================================
X, y    design with its column of ones, and response
H       X (XᵀX)⁻¹ Xᵀ, h its diagonal
e       residuals
======  ============================================================================================

Errors are those of the cluster jackknife (CR3): V = (G−1)/G · Σ_g a_g a_gᵀ with a_g = (XᵀX)⁻¹ X_gᵀ (1 − H_gg)⁻¹ e_g.
With one row a cluster that is HC3 (but for the factor). F has G − 1 degrees of freedom below.

Source: natural splines: Hastie, Tibshirani & Friedman 2009, eq. 5.4 and 5.5; leave-one-out: eq. 7.64; CR3: Bell &
McCaffrey 2002; MacKinnon, Nielsen & Webb 2023, doi 10.1016/j.jeconom.2022.04.001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeper.evidence.cells import Array, Rows

FREEDOM = 5


@dataclass(frozen=True)
class Basis:
    """Natural cubic spline: knots on the scale of `low` to `high`; constant beyond them, as it was trained there."""

    knots: Array
    low: float
    high: float

    @staticmethod
    def of(x: Array, freedom: int = FREEDOM) -> Basis:
        """Return the basis with `freedom` columns and knots at quantiles of `x`; fewer where `x` has few values."""
        values = np.unique(x.round(6))
        freedom = max(1, min(freedom, len(values) - 1))
        knots = np.unique(np.quantile(values if len(values) < 4 * freedom else x, np.linspace(0, 1, freedom + 1)))
        return Basis((knots - knots[0]) / max(np.ptp(knots), 1e-12), float(knots[0]), float(knots[-1]))

    def __call__(self, x: Array) -> Array:
        """Return the columns at `x`, shape (n, freedom)."""
        u = np.clip((x - self.low) / max(self.high - self.low, 1e-12), 0.0, 1.0)
        if len(self.knots) < 3:
            return u[:, None]
        gap = np.maximum(u[:, None] - self.knots[:-1], 0.0) ** 3
        end = np.maximum(u - self.knots[-1], 0.0)[:, None] ** 3
        d = (gap - end) / (self.knots[-1] - self.knots[:-1])
        return np.column_stack([u, d[:, :-1] - d[:, -1:]])


def design(*parts: Array) -> Array:
    """Return the columns with a column of ones in front; columns that the former explain are left out."""
    rows = len(parts[0])
    columns = np.column_stack([p.reshape(rows, -1) for p in parts])
    columns = columns - columns.mean(axis=0)
    scale = np.sqrt((columns**2).mean(axis=0))
    kept = np.ones((rows, 1))
    for j in np.flatnonzero(scale > 1e-12):
        column = columns[:, j] / scale[j]
        rest = column - kept @ np.linalg.lstsq(kept, column, rcond=None)[0]
        if (rest**2).mean() > 1e-10:
            kept = np.column_stack([kept, column])
    return kept


@dataclass(frozen=True, eq=False)
class Fit:
    """Weighted least squares: coefficients, residuals, leverages, and the inverse of XᵀX."""

    x: Array
    coefficients: Array
    residuals: Array
    leverage: Array
    inverse: Array

    @property
    def left_out(self) -> Array:
        """Residual of each row as predicted by a fit without it (of weighted rows, times the root of the weight)."""
        return self.residuals / np.maximum(1.0 - self.leverage, 1e-9)


def least_squares(x: Array, y: Array, weight: Array | None = None) -> Fit:
    """Fit y by the columns of x; with weights, rows are multiplied by the roots of these first."""
    root = np.ones(len(y)) if weight is None else np.sqrt(weight)
    x, y = x * root[:, None], y * root
    inverse: Array = np.asarray(np.linalg.pinv(x.T @ x), dtype=float)
    coefficients = inverse @ (x.T @ y)
    return Fit(x, coefficients, y - x @ coefficients, np.einsum("ij,jk,ik->i", x, inverse, x), inverse)


def clustered(fit: Fit, group: Rows) -> tuple[Array, int]:
    """Return CR3 of the coefficients, shape (p, p), and the number of clusters G."""
    _, group = np.unique(group, return_inverse=True)
    number = int(group.max()) + 1
    meat = np.zeros_like(fit.inverse)
    for rows in np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1]):
        x, e = fit.x[rows], fit.residuals[rows]
        inner = np.eye(len(rows)) - x @ fit.inverse @ x.T
        pull = fit.inverse @ (x.T @ np.linalg.pinv(inner, rcond=1e-9) @ e)
        meat += np.outer(pull, pull)
    return (number - 1) / number * meat, number


@dataclass(frozen=True)
class Wald:
    """F of the last q coefficients being 0, with its degrees of freedom and p."""

    f: float
    q: int
    below: int
    p: float


def wald(fit: Fit, group: Rows, q: int) -> Wald:
    """Test whether the last `q` coefficients are 0, errors clustered by `group`."""
    covariance, number = clustered(fit, group)
    tail = fit.coefficients[-q:]
    f = float(tail @ np.linalg.pinv(covariance[-q:, -q:]) @ tail) / q
    return Wald(f, q, number - 1, float(stats.f.sf(f, q, max(number - 1, 1))))


def share(error: float, y: Array, weight: Array | None = None) -> float:
    """Return R² of a sum of squared errors, against the (weighted) mean."""
    w = np.ones(len(y)) if weight is None else weight
    total = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    return 1.0 - error / total if total > 0 else float("nan")
