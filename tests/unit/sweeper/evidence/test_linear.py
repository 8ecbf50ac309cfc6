import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.interpolate import CubicSpline

from sweeper.evidence.linear import Basis, clustered, design, least_squares, share, wald


def test_the_basis_holds_every_natural_cubic_spline_on_its_knots() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(2.0, 5.0, 80))
    basis = Basis.of(x, 5)
    knots = basis.low + basis.knots * (basis.high - basis.low)
    assert basis(x).shape == (80, 5)
    y = CubicSpline(knots, rng.normal(size=len(knots)), bc_type="natural")(x)
    assert least_squares(design(basis(x)), y).residuals == pytest.approx(np.zeros(80), abs=1e-9)
    # beyond its ends it is constant
    assert basis(np.array([-9.0, 99.0])) == pytest.approx(basis(np.array([basis.low, basis.high])))


def test_few_different_values_get_few_columns() -> None:
    assert Basis.of(np.array([1.0, 1.0, 2.0]))(np.array([1.5])).shape == (1, 1)
    assert Basis.of(np.ones(4))(np.ones(4)).shape == (4, 1)


def data(seed: int = 0):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(12), 4)
    x = np.column_stack([np.ones(48), rng.normal(size=48), rng.normal(size=12)[group], rng.normal(size=48)])
    y = x @ np.array([1.0, 0.5, 0.0, 0.0]) + rng.normal(size=12)[group] + rng.normal(size=48)
    return x, y, group


def test_clustered_errors_are_the_jackknifes() -> None:
    x, y, group = data()
    fit = least_squares(x, y)
    out = np.array([np.linalg.lstsq(x[group != g], y[group != g], rcond=None)[0] for g in range(12)])
    apart = out - fit.coefficients
    covariance, number = clustered(fit, group)
    assert number == 12
    assert covariance == pytest.approx(11 / 12 * apart.T @ apart)


def test_one_row_a_cluster_is_hc3() -> None:
    x, y, _ = data()
    covariance, n = clustered(least_squares(x, y), np.arange(48))
    robust = sm.OLS(y, x).fit().get_robustcov_results("HC3")
    assert covariance == pytest.approx(47 / 48 * robust.cov_params())
    assert n == 48


def test_wald_is_the_quadratic_form_of_the_last_coefficients() -> None:
    x, y, group = data()
    fit = least_squares(x, y)
    covariance, _ = clustered(fit, group)
    b = fit.coefficients[2:]
    f = b @ np.linalg.inv(covariance[2:, 2:]) @ b / 2
    test = wald(fit, group, 2)
    assert (test.f, test.q, test.below) == (pytest.approx(f), 2, 11)
    assert test.p == pytest.approx(stats.f.sf(f, 2, 11))


def test_left_out_residuals_are_those_of_refits() -> None:
    x, y, _ = data()
    w = np.random.default_rng(1).integers(1, 5, 48).astype(float)
    fit = least_squares(x, y, w)
    for i in (0, 17, 47):
        rest = np.arange(48) != i
        root = np.sqrt(w[rest])
        b = np.linalg.lstsq(x[rest] * root[:, None], y[rest] * root, rcond=None)[0]
        assert fit.left_out[i] == pytest.approx(np.sqrt(w[i]) * (y[i] - x[i] @ b))


def test_columns_that_others_explain_are_left_out() -> None:
    x, _, _ = data()
    assert design(x[:, 1], 2 * x[:, 1] + 3, np.ones(48), x[:, 3]).shape == (48, 3)


def test_share_is_r_squared() -> None:
    y = np.array([1.0, 2.0, 4.0])
    assert share(0.7, y) == pytest.approx(1 - 0.7 / np.sum((y - y.mean()) ** 2))
    assert np.isnan(share(0.0, np.ones(3)))
