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

A configuration that is left out is predicted by a fit without it. One beyond the range of the others is predicted at
their nearest end: a spline says nothing out there, and every definition of the noise keeps the same configurations.

Source: natural splines: Hastie, Tibshirani & Friedman 2009, eq. 5.4 and 5.5; leave-one-out: eq. 7.64; CR3: Bell &
McCaffrey 2002; MacKinnon, Nielsen & Webb 2023, doi 10.1016/j.jeconom.2022.04.001.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeper.analysis.evidence.cells import Array, Mask, Rows
from sweeper.search.noise_sampler.single_index import FREEDOM, Basis

R2 = "R² of left-out configurations"
HOW = (
    "a spline that is fitted without a configuration predicts it, at the nearest end of the others where it lies "
    "beyond them"
)
"""What `LeftOut.r2` is called in every output, and how it is computed."""


def design_matrix(*parts: Array) -> Array:
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


def least_squares(x: Array, y: Array, weight: Array | None = None) -> Fit:
    """Fit y by the columns of x; with weights, rows are multiplied by the roots of these first."""
    root = np.ones(len(y)) if weight is None else np.sqrt(weight)
    x, y = x * root[:, None], y * root
    inverse: Array = np.asarray(np.linalg.pinv(x.T @ x), dtype=float)
    coefficients = inverse @ (x.T @ y)
    return Fit(x, coefficients, y - x @ coefficients, np.einsum("ij,jk,ik->i", x, inverse, x), inverse)


def _members(group: Rows) -> list[Rows]:
    """Return the groups' rows, in ascending order of the groups."""
    _, group = np.unique(group, return_inverse=True)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])


def _residuals_without(fit: Fit, rows: Rows) -> Array:
    """Return the residuals of some rows as a fit without them predicts them: (1 − H_gg)⁻¹ e_g."""
    x = fit.x[rows]
    inner = np.eye(len(rows)) - x @ fit.inverse @ x.T
    return np.linalg.pinv(inner, rcond=1e-9) @ fit.residuals[rows]


def clustered_covariance(fit: Fit, group: Rows) -> tuple[Array, int]:
    """Return CR3 of the coefficients, shape (p, p), and the number of clusters G."""
    meat, groups = np.zeros_like(fit.inverse), _members(group)
    for rows in groups:
        pull = fit.inverse @ (fit.x[rows].T @ _residuals_without(fit, rows))
        meat += np.outer(pull, pull)
    return (len(groups) - 1) / len(groups) * meat, len(groups)


@dataclass(frozen=True)
class WaldTest:
    """F of the last q coefficients being 0, with its degrees of freedom and p."""

    f: float
    q: int
    below: int
    p: float


def wald_test(fit: Fit, group: Rows, q: int) -> WaldTest:
    """Test whether the last `q` coefficients are 0, errors clustered by `group`."""
    covariance, number = clustered_covariance(fit, group)
    tail = fit.coefficients[-q:]
    f = float(tail @ np.linalg.pinv(covariance[-q:, -q:]) @ tail) / q
    return WaldTest(f, q, number - 1, float(stats.f.sf(f, q, max(number - 1, 1))))


@dataclass(frozen=True, eq=False)
class LeftOutErrors:
    """Configurations as fits without them predict them; every sum is weighted.

    Attributes:
        errors: Sum of squared errors per configuration, shape (G,).
        inside: The same by the fit that holds it, shape (G,).
        deviations: Sum of squared distances from the mean of all, shape (G,).
        beyond: Which configurations lie beyond the range of the others on an axis, shape (G,).
        columns: Coefficients of the fit.
    """

    errors: Array
    inside: Array
    deviations: Array
    beyond: Mask
    columns: int

    @property
    def r2(self) -> float:
        """1 − Σ errors / Σ deviations; nan where all scores are the same."""
        total = float(self.deviations.sum())
        return 1.0 - float(self.errors.sum()) / total if total > 0 else float("nan")


def predict_left_out(
    y: Array,
    weight: Array,
    axes: Sequence[Array],
    lines: Sequence[Array] = (),
    *,
    group: Rows | None = None,
    freedom: int = FREEDOM,
) -> LeftOutErrors:
    """Return how well splines along `axes` and straight lines along `lines` predict configurations left out in turn.

    Args:
        y: Response, shape (n,).
        weight: Weight per row, shape (n,).
        axes: What enters as a spline, shape (n,) each.
        lines: What enters as a straight line, shape (n,) each.
        group: Configuration per row, shape (n,); by default each row is one.
        freedom: Columns of a spline.
    """
    fit = least_squares(design_matrix(*(Basis.of(x, freedom)(x) for x in axes), *lines), y, weight)
    squares = weight * (y - np.average(y, weights=weight)) ** 2
    if group is None:
        rows = [np.array([i]) for i in range(len(y))]
        inside, deviations, leverage = fit.residuals**2, squares, fit.leverage
        errors = inside / np.maximum(1.0 - leverage, 1e-9) ** 2
    else:
        rows = _members(group)
        errors = np.array([float(np.sum(_residuals_without(fit, own) ** 2)) for own in rows])
        inside, deviations = (np.array([float(v[own].sum()) for own in rows]) for v in (fit.residuals**2, squares))
        leverage = np.array([float(fit.leverage[own].max()) for own in rows])
    beyond = np.any([_find_beyond(x, rows) for x in (*axes, *lines)], axis=0)
    # where a coefficient rests on one configuration alone, the shortcut by leverages divides by 0
    for g in np.flatnonzero(beyond | (leverage > 1.0 - 1e-6)):
        guess = _predict(rows[g], y, weight, axes, lines, freedom)
        errors[g] = float(np.sum(weight[rows[g]] * (y[rows[g]] - guess) ** 2))
    return LeftOutErrors(errors, inside, deviations, beyond, fit.x.shape[1])


def _find_beyond(x: Array, rows: Sequence[Rows]) -> Mask:
    """Return which configurations have a value below those of all others, or above."""
    low = np.array([x[own].min() for own in rows])
    high = np.array([x[own].max() for own in rows])
    if len(rows) < 2:
        return np.zeros(len(rows), dtype=bool)
    slack = 1e-9 * float(np.ptp(x))
    first, last = np.partition(low, 1)[:2], np.partition(high, -2)[-2:]
    # of the lowest one the others begin at the second lowest
    begin = np.where(low <= first[0], first[1], first[0])
    end = np.where(high >= last[1], last[0], last[1])
    return (low < begin - slack) | (high > end + slack)


def _predict(own: Rows, y: Array, weight: Array, axes: Sequence[Array], lines: Sequence[Array], freedom: int) -> Array:
    rest = np.ones(len(y), dtype=bool)
    rest[own] = False
    fitted, asked = [np.ones((int(rest.sum()), 1))], [np.ones((len(own), 1))]
    for x in axes:
        basis = Basis.of(x[rest], freedom)
        fitted.append(basis(x[rest]))
        asked.append(basis(x[own]))
    for x in lines:
        middle, scale = float(x[rest].mean()), float(x[rest].std()) or 1.0
        fitted.append((x[rest, None] - middle) / scale)
        asked.append((np.clip(x[own, None], x[rest].min(), x[rest].max()) - middle) / scale)
    root = np.sqrt(weight[rest])
    found = np.linalg.lstsq(np.hstack(fitted) * root[:, None], y[rest] * root, rcond=1e-9)[0]
    return np.hstack(asked) @ found


def r_squared(error: float, y: Array, weight: Array | None = None) -> float:
    """Return R² of a sum of squared errors, against the (weighted) mean."""
    w = np.ones(len(y)) if weight is None else weight
    total = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    return 1.0 - error / total if total > 0 else float("nan")
