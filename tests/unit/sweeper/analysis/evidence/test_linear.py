import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.interpolate import CubicSpline

from sweeper.analysis.evidence.linear import (
    clustered_covariance,
    design_matrix,
    least_squares,
    predict_left_out,
    r_squared,
    wald_test,
)
from sweeper.search.noise_sampler.single_index import Basis


def test_the_basis_holds_every_natural_cubic_spline_on_its_knots() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(2.0, 5.0, 80))
    basis = Basis.of(x, 5)
    knots = basis.low + basis.knots * (basis.high - basis.low)
    assert basis(x).shape == (80, 5)
    y = CubicSpline(knots, rng.normal(size=len(knots)), bc_type="natural")(x)
    assert least_squares(design_matrix(basis(x)), y).residuals == pytest.approx(np.zeros(80), abs=1e-9)
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
    covariance, number = clustered_covariance(fit, group)
    assert number == 12
    assert covariance == pytest.approx(11 / 12 * apart.T @ apart)


def test_one_row_a_cluster_is_hc3() -> None:
    x, y, _ = data()
    covariance, n = clustered_covariance(least_squares(x, y), np.arange(48))
    robust = sm.OLS(y, x).fit().get_robustcov_results("HC3")
    assert covariance == pytest.approx(47 / 48 * robust.cov_params())
    assert n == 48


def test_wald_is_the_quadratic_form_of_the_last_coefficients() -> None:
    x, y, group = data()
    fit = least_squares(x, y)
    covariance, _ = clustered_covariance(fit, group)
    b = fit.coefficients[2:]
    f = b @ np.linalg.inv(covariance[2:, 2:]) @ b / 2
    test = wald_test(fit, group, 2)
    assert (test.f, test.q, test.below) == (pytest.approx(f), 2, 11)
    assert test.p == pytest.approx(stats.f.sf(f, 2, 11))


def predicted(x, y, w, i: int) -> float:
    """A row as a fit without it predicts it, by the knots of all; the outermost at the nearest end of the others."""
    rest = np.arange(len(x)) != i
    basis = Basis.of(x[rest] if i in (0, len(x) - 1) else x)
    columns = np.column_stack([np.ones(len(x)), basis(np.clip(x, x[rest].min(), x[rest].max()))])
    root = np.sqrt(w[rest])
    return float(columns[i] @ np.linalg.lstsq(columns[rest] * root[:, None], y[rest] * root, rcond=None)[0])


def test_left_out_configurations_are_predicted_by_refits_and_the_outermost_at_the_nearest_end() -> None:
    rng = np.random.default_rng(1)
    x, w = np.sort(rng.uniform(-3, 3, 30)), rng.integers(1, 5, 30).astype(float)
    x[-1] = 9.0
    y = np.sin(x) + 0.1 * rng.normal(size=30)
    found = predict_left_out(y, w, [x])
    expected = [w[i] * (y[i] - predicted(x, y, w, i)) ** 2 for i in range(30)]
    assert found.errors == pytest.approx(expected)
    assert np.flatnonzero(found.beyond).tolist() == [0, 29]
    assert found.r2 == pytest.approx(1 - sum(expected) / np.sum(w * (y - np.average(y, weights=w)) ** 2))


def test_a_lone_outermost_point_does_not_turn_r2_against_a_clear_hump() -> None:
    # extrapolated, the spline misses the last point by more than all the others together
    x = np.concatenate([np.linspace(-1, 1, 25), [4.0]])
    y = np.concatenate([np.exp(-4 * x[:-1] ** 2), [0.0]])
    fit = least_squares(design_matrix(Basis.of(x)(x)), y)
    extrapolated = 1 - np.sum((fit.residuals / (1 - fit.leverage)) ** 2) / np.sum((y - y.mean()) ** 2)
    assert extrapolated < 0.5
    assert predict_left_out(y, np.ones(26), [x]).r2 > 0.95


def test_repeats_are_left_out_together_and_no_row_of_a_shared_end_lies_beyond() -> None:
    rng = np.random.default_rng(2)
    x, owner = np.repeat([0.0, 0.0, *rng.uniform(0.2, 0.8, 10), 1.0], 3), np.repeat(np.arange(13), 3)
    line, y = np.repeat(rng.integers(0, 2, 13), 3).astype(float), rng.normal(size=39)
    found = predict_left_out(y, np.ones(39), [x], [line], group=owner)
    assert np.flatnonzero(found.beyond).tolist() == [12]
    rest, own = owner != 4, owner == 4
    columns = np.column_stack([np.ones(39), Basis.of(x)(x), line])
    guess = columns[own] @ np.linalg.lstsq(columns[rest], y[rest], rcond=None)[0]
    assert found.errors[4] == pytest.approx(np.sum((y[own] - guess) ** 2))
    assert found.deviations.sum() == pytest.approx(np.sum((y - y.mean()) ** 2))


def test_where_a_coefficient_rests_on_one_row_the_prediction_is_finite() -> None:
    x, lone = np.linspace(0, 1, 20), (np.arange(20) == 7).astype(float)
    found = predict_left_out(x**2, np.ones(20), [x], [lone])
    assert found.errors[7] < 0.01


def test_columns_that_others_explain_are_left_out() -> None:
    x, _, _ = data()
    assert design_matrix(x[:, 1], 2 * x[:, 1] + 3, np.ones(48), x[:, 3]).shape == (48, 3)


def test_share_is_r_squared() -> None:
    y = np.array([1.0, 2.0, 4.0])
    assert r_squared(0.7, y) == pytest.approx(1 - 0.7 / np.sum((y - y.mean()) ** 2))
    assert np.isnan(r_squared(0.0, np.ones(3)))
