"""The Gaussian process, its candidates and its transform of losses against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from scipy.stats import norm

from sweeper.search.noise_sampler.acquisition import knowledge_gradient
from sweeper.search.noise_sampler.candidates import (
    LEVEL_SET,
    log_expected_improvement,
    propose,
)
from sweeper.search.noise_sampler.kernel import NoiseKernel, Prior, make_table
from sweeper.search.noise_sampler.level_sets import KnobSpace
from sweeper.search.noise_sampler.loss_transform import LossTransform, subsample, transform_losses
from sweeper.search.noise_sampler.surrogate import Surrogate, fit
from tests.support.noise_search import BEST, SPACE, ridge, space_of


def _problem(nominal: bool = False) -> tuple[KnobSpace, np.ndarray, np.ndarray]:
    more = {"kind": CategoricalDistribution(("a", "b", "c"))} if nominal else {}
    space = space_of({**SPACE, **more})
    unit = np.random.default_rng(0).random((40, len(space.knobs)))
    y = np.array([ridge(space.params_of(row)) for row in unit])
    return space, unit, y


def _fitted(nominal: bool = False) -> tuple[KnobSpace, np.ndarray, Surrogate]:
    space, unit, y = _problem(nominal)
    points, kinds = space.points(unit), np.array([k.nominal for k in space.knobs])
    prior = Prior.of(len(space.knobs), np.full(len(space.factor_roles), 0.1), 10.0, 5.0)
    return space, transform_losses(y), fit(points, transform_losses(y), kinds, prior)


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("spans", [(10.0, 5.0), (10.0, 0.0), (0.0, 0.0)])
def test_gradient_of_the_covariance(spans: tuple[float, float], additive: bool, proxied: bool) -> None:
    space, unit, _ = _problem(nominal=True)
    tilt_sd = np.full(len(space.factor_roles), 0.1)
    prior = Prior.of(len(space.knobs), tilt_sd, *spans, additive=additive, proxied=proxied)
    at = prior.mean + 0.5 * prior.sd * np.random.default_rng(1).standard_normal(len(prior.mean))
    points = space.points(unit[:9]).with_proxy(proxied * (np.arange(9) % 2))
    kinds, rows = np.array([k.nominal for k in space.knobs]), make_table(points)
    spread = np.exp(np.random.default_rng(2).standard_normal(len(rows))) if additive else None
    covariance, gradient = NoiseKernel(at, prior, kinds, spread)(rows, eval_gradient=True)
    kernel = NoiseKernel(at, prior, kinds, spread)
    assert covariance == pytest.approx(kernel(rows))
    assert np.diag(covariance) - kernel._seed_variance == pytest.approx(kernel.diag(rows))
    for i, step in enumerate(1e-6 * np.eye(len(at))):
        ahead, behind = (NoiseKernel(at + s, prior, kinds, spread)(rows) for s in (step, -step))
        assert gradient[:, :, i] == pytest.approx((ahead - behind) / 2e-6, abs=1e-6)


def test_only_the_additive_residual_leaves_noise_out() -> None:
    space, unit, _ = _problem()
    rows = make_table(space.points(unit[:9]))
    moved = rows.copy()
    moved[:, 0] += np.arange(9.0)  # log noise
    for additive in (False, True):
        prior = Prior.of(len(space.knobs), np.full(len(space.factor_roles), 0.1), 10.0, 0.0, additive=additive)
        kernel = NoiseKernel(prior.mean, prior, np.zeros(len(space.knobs), dtype=bool))
        assert np.allclose(kernel.rest(rows, rows), kernel.rest(moved, moved)) == additive


def test_left_out_means_are_those_of_fits_without_the_point() -> None:
    _, target, model = _fitted()
    seen = make_table(model.points)
    noisy = model.kernel(seen) + 1e-6 * np.eye(len(target))
    found = model.left_out_means()
    for i in (0, 7, 39):
        rest = np.arange(len(target)) != i
        expected = noisy[i, rest] @ np.linalg.solve(noisy[np.ix_(rest, rest)], target[rest])
        assert found[i] == pytest.approx(expected, abs=1e-6)


def test_posterior_equals_the_textbook_formula() -> None:
    space, target, model = _fitted()
    new = space.points(np.random.default_rng(2).random((7, 5)))
    seen, other = make_table(model.points), make_table(new)
    noisy = model.kernel(seen) + 1e-6 * np.eye(40)
    inverse, cross = np.linalg.inv(noisy), model.kernel(seen, other)
    mean, sd = model.predict(new)
    assert mean == pytest.approx(cross.T @ inverse @ target, abs=1e-6)
    expected = model.kernel(other, other) - cross.T @ inverse @ cross
    assert sd**2 == pytest.approx(np.diag(expected), abs=1e-6)
    assert model.covariance(new, new) == pytest.approx(expected, abs=1e-6)


def test_believing_keeps_the_mean_and_shrinks_the_sd() -> None:
    space, _, model = _fitted()
    pending = space.points(np.random.default_rng(3).random((4, 5)))
    conditioned = model.condition_on(pending)
    far = space.points(np.random.default_rng(4).random((30, 5)))
    assert conditioned.predict(far)[0] == pytest.approx(model.predict(far)[0], abs=1e-6)
    assert (conditioned.predict(far)[1] <= model.predict(far)[1] + 1e-6).all()
    assert (conditioned.predict(pending)[1] <= 1.01 * model.theta.seed_noise + 1e-3).all()


def test_variants_are_drawn_around_the_fitted_hyperparameters() -> None:
    _, _, model = _fitted()
    at = np.array(model.kernel.theta)
    drawn = np.array([np.array(v.kernel.theta) for v in model.variants(40, np.random.default_rng(0))])
    assert np.array(model.kernel.theta).tolist() == at.tolist()
    assert (np.abs(drawn.mean(axis=0) - at) <= 4 * drawn.std(axis=0) / math.sqrt(40) + 0.3).all()


def test_a_knowledge_gradient_is_what_one_more_look_brings() -> None:
    space, _, model = _fitted()
    points = space.points(np.random.default_rng(5).random((3, 5))) + model.points[[0]]
    gains = knowledge_gradient(model, points)
    mean, cross = model.predict(model.points)[0], model.covariance(model.points, points)
    ahead, sd = model.predict(points)
    draws = np.random.default_rng(6).standard_normal(200_000)
    for i in range(3):
        shift = np.append(cross[:, i], sd[i] ** 2) / math.sqrt(sd[i] ** 2 + model.theta.seed_noise**2)
        after = np.min(np.append(mean, ahead[i])[:, None] + shift[:, None] * draws, axis=0)
        assert gains[i] == pytest.approx(mean.min() - after.mean(), abs=0.02)
    assert (gains >= 0).all()


def test_candidates_of_a_level_set_lie_on_the_level_they_are_aimed_at() -> None:
    space, unit, y = _problem()
    prior = Prior.of(5, np.full(len(space.factor_roles), 0.1), 10.0)
    model = fit(space.points(unit), transform_losses(y), np.zeros(5, dtype=bool), prior)
    levels = np.log([BEST / 2, BEST])
    pool = propose(space, model, levels, np.random.default_rng(0))
    aimed = np.array([origin == LEVEL_SET for origin in pool.origin])
    assert set(pool.level[aimed]) == set(levels)
    assert np.isnan(pool.level[~aimed]).all()
    assert model.axis(pool.points)[aimed] == pytest.approx(pool.level[aimed], abs=1e-9)
    parents = np.array([np.flatnonzero(aimed)[0], 0])
    more = pool.extend(pool.points[parents], parents)
    assert list(more.origin[-2:]) == [LEVEL_SET, pool.origin[0]]
    assert more.level[-2] == pool.level[parents[0]]
    assert np.isnan(more.level[-1])


def test_log_expected_improvement_equals_the_integral_and_survives_the_tail() -> None:
    mean, sd = np.array([0.0, 0.5, 1.0, 3.0]), np.array([1.0, 0.3, 0.2, 0.5])
    z = (0.2 - mean) / sd
    expected = np.log(sd * (norm.pdf(z) + z * norm.cdf(z)))
    assert log_expected_improvement(mean, sd, 0.2) == pytest.approx(expected, rel=1e-6)
    tail = log_expected_improvement(np.array([1e2, 1e4, 1e6]), np.ones(3), 0.0)
    assert np.isfinite(tail).all()
    assert tail[1] == pytest.approx(-0.5e8 - 0.5 * math.log(2 * math.pi) - 2 * math.log(1e4), rel=1e-9)
    assert (np.diff(tail) < 0).all()


def test_taming_keeps_the_order_and_the_good_half_and_holds_the_tail() -> None:
    losses = np.concatenate([np.linspace(0.2, 0.3, 30), [1.0, 10.0, 150.0]])
    out = transform_losses(losses)
    assert (np.diff(out) >= 0).all()
    assert out.mean() == pytest.approx(0, abs=1e-12)
    assert out.std() == pytest.approx(1)
    good = losses <= np.median(losses)
    slope = np.diff(out[good]) / np.diff(losses[good])
    assert slope == pytest.approx(slope[0])
    assert out[-1] - out[0] < 5
    assert np.isfinite(transform_losses(np.array([-1e308, 1e308, 0.0, 1.0]))).all()
    assert (transform_losses(np.full(5, 3.7)) == 0).all()
    transform = LossTransform.of(losses)
    assert transform is not None
    assert transform.losses(out[:28]) == pytest.approx(losses[:28], rel=1e-6)


def test_thinning_keeps_the_best() -> None:
    losses = np.random.default_rng(0).random(300)
    rows = subsample(losses, 100)
    assert len(set(rows)) == 100
    assert set(np.argsort(losses)[:50]) <= set(rows)
    assert subsample(losses, 300).tolist() == list(range(300))
