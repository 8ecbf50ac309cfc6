"""Least squares with splines: natural cubic basis, leave-one-out by leverages, Wald tests with clustered errors.

======  ============================================================================================
symbol  meaning, for n rows and p columns
======  ============================================================================================
X, y    design with its column of ones, and response
H       X (XᵀX)⁻¹ Xᵀ, h its diagonal
e       residuals
======  ============================================================================================

The cluster jackknife (CR3) gives the errors: V = (G−1)/G · Σ_g a_g a_gᵀ with a_g = (XᵀX)⁻¹ X_gᵀ (1 − H_gg)⁻¹ e_g.
With one row per cluster this is HC3, apart from the factor. F has G − 1 degrees of freedom of the denominator.

A fit without a configuration predicts that configuration. If it lies beyond the range of the others, the prediction is
the value at their nearest end: a spline does not extrapolate, and all noise definitions keep the same configurations.

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
    "a spline fitted without a configuration predicts it; beyond the range of the others, the value at their nearest "
    "end counts"
)
"""Label of `LeftOutErrors.r2` in every output, and its explanation."""


def design_matrix(*parts: Array) -> Array:
    """Return the columns after a column of ones, without columns that earlier ones explain."""
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
    """Weighted least-squares fit: design, coefficients, residuals, leverages, and the inverse of XᵀX."""

    x: Array
    coefficients: Array
    residuals: Array
    leverage: Array
    inverse: Array


def least_squares(x: Array, y: Array, weight: Array | None = None) -> Fit:
    """Return the fit of y by the columns of x; the roots of the weights multiply the rows."""
    root = np.ones(len(y)) if weight is None else np.sqrt(weight)
    x, y = x * root[:, None], y * root
    inverse: Array = np.asarray(np.linalg.pinv(x.T @ x), dtype=float)
    coefficients = inverse @ (x.T @ y)
    return Fit(x, coefficients, y - x @ coefficients, np.einsum("ij,jk,ik->i", x, inverse, x), inverse)


def _members(group: Rows) -> list[Rows]:
    """Return the rows per group, in ascending order of the groups."""
    _, group = np.unique(group, return_inverse=True)
    return np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])


def _residuals_without(fit: Fit, rows: Rows) -> Array:
    """Return the residuals of some rows under a fit without them: (1 − H_gg)⁻¹ e_g."""
    x = fit.x[rows]
    inner = np.eye(len(rows)) - x @ fit.inverse @ x.T
    return np.linalg.pinv(inner, rcond=1e-9) @ fit.residuals[rows]


def clustered_covariance(fit: Fit, group: Rows) -> tuple[Array, int]:
    """Return the CR3 covariance of the coefficients, shape (p, p), and the number of clusters G."""
    meat, groups = np.zeros_like(fit.inverse), _members(group)
    for rows in groups:
        pull = fit.inverse @ (fit.x[rows].T @ _residuals_without(fit, rows))
        meat += np.outer(pull, pull)
    return (len(groups) - 1) / len(groups) * meat, len(groups)


@dataclass(frozen=True)
class WaldTest:
    """Wald F for q coefficients equal to 0, with its degrees of freedom and p value."""

    f: float
    q: int
    below: int
    p: float


def wald_test(fit: Fit, group: Rows, q: int) -> WaldTest:
    """Return the test that the last `q` coefficients are 0, with errors clustered by `group`."""
    covariance, number = clustered_covariance(fit, group)
    tail = fit.coefficients[-q:]
    f = float(tail @ np.linalg.pinv(covariance[-q:, -q:]) @ tail) / q
    return WaldTest(f, q, number - 1, float(stats.f.sf(f, q, max(number - 1, 1))))


@dataclass(frozen=True, eq=False)
class LeftOutErrors:
    """Prediction errors of left-out configurations; every sum is weighted.

    Attributes:
        errors: Sum of squared errors per left-out configuration, shape (G,).
        inside: In-sample sum of squared errors per configuration, shape (G,).
        deviations: Sum of squared distances from the overall mean, shape (G,).
        beyond: Whether a configuration lies beyond the range of the others on an axis, shape (G,).
        columns: Number of coefficients of the fit.
    """

    errors: Array
    inside: Array
    deviations: Array
    beyond: Mask
    columns: int

    @property
    def r2(self) -> float:
        """1 − Σ errors / Σ deviations; nan if all scores are equal."""
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
    """Return the errors of splines along `axes` and lines along `lines` that predict configurations left out in turn.

    Args:
        y: Response, shape (n,).
        weight: Weight per row, shape (n,).
        axes: Columns that enter as splines, shape (n,) each.
        lines: Columns that enter as straight lines, shape (n,) each.
        group: Configuration per row, shape (n,); by default every row is its own.
        freedom: Number of columns per spline.
    """
    fit = least_squares(design_matrix(*(Basis.of(x, freedom)(x) for x in axes), *lines), y, weight)
    squares = weight * (y - np.average(y, weights=weight)) ** 2
    if group is None:
        rows = [np.array([i]) for i in range(len(y))]
        inside, deviations, leverage = fit.residuals**2, squares, fit.leverage
        errors = inside / np.maximum(1.0 - leverage, 1e-9) ** 2
    else:
        rows = _members(group)
        errors = np.array([float(np.sum(_residuals_without(fit, members) ** 2)) for members in rows])
        inside, deviations = (
            np.array([float(v[members].sum()) for members in rows]) for v in (fit.residuals**2, squares)
        )
        leverage = np.array([float(fit.leverage[members].max()) for members in rows])
    beyond = np.any([_find_beyond(x, rows) for x in (*axes, *lines)], axis=0)
    # the shortcut by leverages divides by 0 if a coefficient depends on a single configuration
    for g in np.flatnonzero(beyond | (leverage > 1.0 - 1e-6)):
        guess = _predict(rows[g], y, weight, axes, lines, freedom)
        errors[g] = float(np.sum(weight[rows[g]] * (y[rows[g]] - guess) ** 2))
    return LeftOutErrors(errors, inside, deviations, beyond, fit.x.shape[1])


def predict_by_mean(y: Array, weight: Array) -> LeftOutErrors:
    """Return the errors of the weighted mean of the others, of configurations left out in turn."""
    squares = weight * (y - np.average(y, weights=weight)) ** 2
    errors = squares / np.maximum(1.0 - weight / weight.sum(), 1e-9) ** 2
    return LeftOutErrors(errors, squares, squares, np.zeros(len(y), dtype=bool), 1)


def _find_beyond(x: Array, rows: Sequence[Rows]) -> Mask:
    """Return which configurations have a value below or above the range of all others."""
    low = np.array([x[members].min() for members in rows])
    high = np.array([x[members].max() for members in rows])
    if len(rows) < 2:
        return np.zeros(len(rows), dtype=bool)
    slack = 1e-9 * float(np.ptp(x))
    first, last = np.partition(low, 1)[:2], np.partition(high, -2)[-2:]
    # for the lowest configuration, the others begin at the second lowest
    begin = np.where(low <= first[0], first[1], first[0])
    end = np.where(high >= last[1], last[0], last[1])
    return (low < begin - slack) | (high > end + slack)


def _predict(
    members: Rows, y: Array, weight: Array, axes: Sequence[Array], lines: Sequence[Array], freedom: int
) -> Array:
    rest = np.ones(len(y), dtype=bool)
    rest[members] = False
    training, target = [np.ones((int(rest.sum()), 1))], [np.ones((len(members), 1))]
    for x in axes:
        basis = Basis.of(x[rest], freedom)
        training.append(basis(x[rest]))
        target.append(basis(x[members]))
    for x in lines:
        middle, scale = float(x[rest].mean()), float(x[rest].std()) or 1.0
        training.append((x[rest, None] - middle) / scale)
        target.append((np.clip(x[members, None], x[rest].min(), x[rest].max()) - middle) / scale)
    root = np.sqrt(weight[rest])
    coefficients = np.linalg.lstsq(np.hstack(training) * root[:, None], y[rest] * root, rcond=1e-9)[0]
    return np.hstack(target) @ coefficients


def r_squared(error: float, y: Array, weight: Array | None = None) -> float:
    """Return R² of a sum of squared errors, relative to the (weighted) mean."""
    w = np.ones(len(y)) if weight is None else weight
    total = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    return 1.0 - error / total if total > 0 else float("nan")
