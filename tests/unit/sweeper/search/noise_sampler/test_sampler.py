"""NoiseTargetedSampler by value: design, level sets, surrogate, knob kinds, pending and odd trials, messages."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.stats import norm

from sweeper.search.k_aug import KAug
from sweeper.search.noise_sampler.acquisition import knowledge_gradient
from sweeper.search.noise_sampler.candidates import (
    LEVEL_SET,
    find_range,
    log_expected_improvement,
    propose,
    startup_point,
    van_der_corput,
)
from sweeper.search.noise_sampler.encoding import check_fixed, check_names
from sweeper.search.noise_sampler.kernel import NoiseKernel, Prior, make_table
from sweeper.search.noise_sampler.level_sets import KnobSpace, make_knob_space
from sweeper.search.noise_sampler.loss_transform import LossTransform, subsample, transform_losses
from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.noise_sampler.sampler import NOISE_TARGET_KEY, SEARCH_KEY, NoiseTargetedSampler
from sweeper.search.noise_sampler.study_attrs import PARAMS_KEY
from sweeper.search.noise_sampler.surrogate import Surrogate, fit
from trainables.noise import KNOBS, NOISE

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
    "batch_size": IntDistribution(8, 128, log=True),
    "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
    "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
    "augmentation_strength": FloatDistribution(0.0, 1.0),
}
BEST = 1e-2


def space_of(space: Mapping[str, Any], noise: str = "paper", **fixed: float) -> KnobSpace:
    return make_knob_space(space, NOISE[noise], check_names(None), check_fixed(fixed))


def ridge(params: Mapping[str, Any]) -> float:
    noise = params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"]))
    return -math.exp(-0.5 * math.log(noise / BEST) ** 2)


def run(
    sampler: optuna.samplers.BaseSampler,
    objective: Callable[[Mapping[str, Any]], float],
    n: int,
    space: Mapping[str, Any] = SPACE,
    direction: str = "minimize",
) -> optuna.Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    for _ in range(n):
        trial = study.ask(dict(space))
        study.tell(trial, objective(trial.params))
    return study


# ---- knobs and the noise axis ----

OF_KNOBS = [n for n, s in NOISE.items() if s.needs and set(s.needs) <= {*KNOBS, "examples"}]


@pytest.mark.parametrize("name", OF_KNOBS)
def test_log_noise_is_the_definitions_prediction(name: str) -> None:
    space = space_of(SPACE, name, examples=720)
    unit = np.random.default_rng(0).random((20, 5))
    for row, log_noise in zip(unit, space.points(unit).log_noise, strict=True):
        settings = {**space.params_of(row), "examples": 720}
        assert log_noise == pytest.approx(math.log(NOISE[name].predict(settings)), abs=1e-12)


@pytest.mark.parametrize("name", OF_KNOBS)
def test_solving_reaches_the_refined_level(name: str) -> None:
    space = space_of(SPACE, name)
    low, high = find_range(space)
    draws = np.random.default_rng(1).random((200, 5))
    tilt = np.linspace(-0.1, 0.1, len(space.factor_roles))
    target = np.full(200, (low + high) / 2)
    unit, reached = space.solve(draws, target, tilt)
    points = space.points(unit)
    phi = points.log_noise + points.factors @ tilt
    assert reached.sum() > 20
    assert phi[reached] == pytest.approx(target[reached], abs=1e-9)
    assert space.knobs[space.pivot or 0].name == "learning_rate"


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(1e-5, 1.0, log=True),
        FloatDistribution(-2.0, 3.0),
        FloatDistribution(0.0, 1.0, step=0.25),
        IntDistribution(1, 100, log=True),
        IntDistribution(3, 9, step=2),
        CategoricalDistribution(("a", None, 3, True)),
    ],
)
def test_values_survive_the_unit_cube(distribution: optuna.distributions.BaseDistribution) -> None:
    space = space_of({"x": distribution})
    for u in np.linspace(0, 1, 23):
        params = space.params_of(np.array([u]))
        assert distribution._contains(distribution.to_internal_repr(params["x"]))
        unit, usable = space.units_of([params])
        back = space.params_of(unit[0])["x"]
        assert usable.all()
        assert back == (pytest.approx(params["x"], rel=1e-12) if isinstance(back, float) else params["x"])
        assert type(back) is type(params["x"])


def test_ordinal_choices_keep_their_type_and_order() -> None:
    space = space_of({"batch_size": CategoricalDistribution((64, 8, 32, 16))})
    values = [space.params_of(np.array([u]))["batch_size"] for u in (0.1, 0.4, 0.6, 0.9)]
    assert values == [8, 16, 32, 64]
    assert all(type(v) is int for v in values)


def test_missing_roles_come_from_fixed() -> None:
    space = space_of({"learning_rate": SPACE["learning_rate"]}, batch_size=32, momentum=0.9)
    unit = np.array([[0.5]])
    rate = space.params_of(unit[0])["learning_rate"]
    assert math.exp(space.points(unit).log_noise[0]) == pytest.approx(rate / (32 * 0.1))


def test_a_decay_that_is_fixed_at_zero_is_an_offset() -> None:
    space = space_of({"learning_rate": SPACE["learning_rate"]}, "wd_intrinsic")
    assert space.points(np.array([[0.0]])).log_noise[0] == pytest.approx(math.log(3e-4))


def test_values_that_a_knob_cannot_hold_are_marked() -> None:
    space = space_of(SPACE)
    good = space.params_of(np.full(5, 0.5))
    wide = {**good, "learning_rate": 30.0}
    wrong = [{"momentum": 0.7}, {"learning_rate": "fast"}, {"weight_decay": 0.0}, {"batch_size": None}]
    wrong = [{**good, **bad} for bad in wrong] + [{"momentum": 0.5}]
    units, usable = space.units_of([good, *wrong, wide])
    assert usable.tolist() == [True, False, False, False, False, False, True]
    assert units[:, 0] == pytest.approx([0.5, 1.25])  # a value from a wider range keeps its place


# ---- the start-up design ----


def test_van_der_corput_values() -> None:
    assert [van_der_corput(i) for i in range(5)] == [0.0, 0.5, 0.25, 0.75, 0.125]


@pytest.mark.parametrize("seed", range(5))
def test_eight_startup_points_hold_one_noise_in_each_eighth_of_the_range(seed: int) -> None:
    space = space_of(SPACE)
    low, high = find_range(space)
    unit = np.stack([startup_point(space, seed, i) for i in range(8)])
    share = (space.points(unit).log_noise - low) / (high - low)
    shift = (share[0] - van_der_corput(0)) % 1.0
    expected = [(van_der_corput(i) + shift) % 1.0 for i in range(8)]
    assert share == pytest.approx(expected, abs=0.045)
    assert max(np.diff(np.sort(share))) < 1 / 8 + 0.09
    for column in unit.T[[0, 3, 4]]:
        assert np.ptp(column) > 0.3


def test_startup_is_a_function_of_seed_and_number() -> None:
    first = run(NoiseTargetedSampler(seed=3, search_space=SPACE), ridge, 5)
    again = NoiseTargetedSampler(seed=3, search_space=SPACE)
    study = optuna.create_study(sampler=again)
    together = [study.ask(SPACE).params for _ in range(5)]  # none is told
    assert together == [t.params for t in first.trials]
    assert run(NoiseTargetedSampler(seed=4, search_space=SPACE), ridge, 1).trials[0].params != together[0]


def test_startup_without_noise_fills_the_cube() -> None:
    space = space_of({f"x{i}": FloatDistribution(0, 1) for i in range(3)})
    unit = np.stack([startup_point(space, 0, i) for i in range(16)])
    assert space.pivot is None
    for column in unit.T:  # a scrambled Sobol sequence has one of 16 points in each sixteenth
        assert sorted((column * 16).astype(int)) == list(range(16))


# ---- the surrogate ----


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


@pytest.mark.parametrize("spans", [(10.0, 5.0), (10.0, 0.0), (0.0, 0.0)])
def test_gradient_of_the_covariance(spans: tuple[float, float]) -> None:
    space, unit, _ = _problem(nominal=True)
    prior = Prior.of(len(space.knobs), np.full(len(space.factor_roles), 0.1), *spans)
    at = prior.mean + 0.5 * prior.sd * np.random.default_rng(1).standard_normal(len(prior.mean))
    kinds, rows = np.array([k.nominal for k in space.knobs]), make_table(space.points(unit[:9]))
    covariance, gradient = NoiseKernel(at, prior, kinds)(rows, eval_gradient=True)
    assert covariance == pytest.approx(NoiseKernel(at, prior, kinds)(rows))
    for i, step in enumerate(1e-6 * np.eye(len(at))):
        ahead, behind = (NoiseKernel(at + s, prior, kinds)(rows) for s in (step, -step))
        assert gradient[:, :, i] == pytest.approx((ahead - behind) / 2e-6, abs=1e-6)


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


# ---- the search ----


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_finds_the_best_noise_and_says_so(direction: str) -> None:
    sign = -1.0 if direction == "maximize" else 1.0
    sampler = NoiseTargetedSampler(seed=1, search_space=SPACE)
    study = run(sampler, lambda p: sign * ridge(p), 30, direction=direction)
    assert sign * study.best_value < -0.98
    seen = sampler.explain(study.trials, direction)
    assert seen.optimum is not None
    assert seen.optimum_low is not None
    assert seen.optimum_high is not None
    assert seen.optimum_low <= seen.optimum <= seen.optimum_high
    assert BEST / 1.2 < seen.optimum < BEST * 1.2
    assert BEST / 3 < seen.optimum_low < BEST * 1.2
    assert BEST / 1.2 < seen.optimum_high < BEST * 3
    assert seen.variance_share > 0.6
    assert sum(p for _, p in seen.posterior) == pytest.approx(1)
    for role in ("batch_size", "momentum"):
        assert seen.exponent_low[role] <= seen.exponents[role] <= seen.exponent_high[role]
    assert seen.trials == 30
    assert seen == sampler.explain(study.trials, study.direction) == sampler.explain(study.trials, [direction])
    found = sampler.recommend(study.trials, [direction])
    assert found is not None
    assert ridge(found.params) < -0.95


def test_learns_that_momentum_counts_twice() -> None:
    def objective(params: Mapping[str, Any]) -> float:
        noise = params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"]) ** 1.4)
        return -math.exp(-0.5 * math.log(noise / BEST) ** 2)

    sampler = NoiseTargetedSampler(seed=0, search_space=SPACE)
    rng, study = np.random.default_rng(0), optuna.create_study(sampler=sampler)
    space = space_of(SPACE)
    for _ in range(80):
        params = space.params_of(rng.random(5))
        study.add_trial(optuna.create_trial(params=params, distributions=SPACE, value=objective(params)))
    exponents = sampler.explain(study.trials).exponents
    assert exponents["learning_rate"] == 1.0
    assert exponents["momentum"] == pytest.approx(-1.4, abs=0.12)
    assert exponents["batch_size"] == pytest.approx(-1.0, abs=0.12)
    assert exponents["weight_decay"] == pytest.approx(0.0, abs=0.06)


def test_beats_random_on_a_ridge_with_a_cliff() -> None:
    def objective(params: Mapping[str, Any]) -> float:
        noise = params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"]))
        bowl = (params["augmentation_strength"] - 0.3) ** 2
        return 150.0 if noise > 0.08 else ridge(params) + bowl

    ours = [run(NoiseTargetedSampler(seed=s, search_space=SPACE), objective, 30).best_value for s in range(3)]
    random = [run(optuna.samplers.RandomSampler(seed=s), objective, 30).best_value for s in range(3)]
    assert np.median(ours) < -0.97
    assert np.median(ours) < np.median(random)


def test_without_noise_knobs_it_is_an_ordinary_search() -> None:
    space = {f"x{i}": FloatDistribution(0, 1) for i in range(3)}
    sampler = NoiseTargetedSampler(seed=0, search_space=space)
    study = run(sampler, lambda p: sum((v - 0.3) ** 2 for v in p.values()), 30, space)
    assert study.best_value < 0.01
    seen = sampler.explain(study.trials)
    assert (seen.optimum, seen.variance_share, seen.exponents) == (None, 0.0, {})
    assert NOISE_TARGET_KEY not in study.trials[-1].system_attrs


@pytest.mark.parametrize(
    "space",
    [
        {"learning_rate": FloatDistribution(0.0, 1.0), "momentum": FloatDistribution(0.0, 0.99)},
        {"batch_size": IntDistribution(8, 128, step=8), "optimizer": CategoricalDistribution(("sgd", "lion"))},
        {"learning_rate": CategoricalDistribution((0.001, 0.01, 0.1, 1.0)), "momentum": FloatDistribution(0.0, 0.99)},
        {"learning_rate": CategoricalDistribution((0.01, 0.1)), "batch_size": CategoricalDistribution((8, 64))},
        {"weight_decay": FloatDistribution(0.0, 0.1), "augmentation": CategoricalDistribution(("none", "shift"))},
        {"augmentation": CategoricalDistribution(("none", "shift")), "augmentation_strength": FloatDistribution(0, 1)},
        {"learning_rate": FloatDistribution(0.1, 0.1), "batch_size": IntDistribution(8, 9)},
        {"learning_rate": FloatDistribution(1e-3, 1e-3), "weight_decay": FloatDistribution(1e-5, 1e-2, log=True)},
    ],
)
@pytest.mark.parametrize("noise", ["paper", "wd_angular", "wd_equilibrium"])
def test_any_kind_of_knob(space: dict[str, Any], noise: str) -> None:
    study = run(NoiseTargetedSampler(noise, search_space=space, n_startup=3), lambda p: len(str(p)), 9, space)
    assert all(set(t.params) == set(space) for t in study.trials)
    assert json.loads(study.trials[-1].system_attrs[SEARCH_KEY])["origin"] in (
        "filling",
        "level_set",
        "neighbour",
        "repeat",
    )


def test_origin_and_target_say_how_a_refined_proposal_came_about() -> None:
    study = run(NoiseTargetedSampler(seed=0, search_space=SPACE), ridge, 24)
    notes = [json.loads(t.system_attrs[SEARCH_KEY]) for t in study.trials]
    assert [n["origin"] for n in notes[:5]] == ["startup"] * 5
    later = {n["origin"] for n in notes[5:]}
    assert "level_set" in later
    assert later <= {"level_set", "neighbour", "filling", "repeat"}
    for trial, thought in zip(study.trials, notes, strict=True):
        rate, batch, momentum = (trial.params[k] for k in ("learning_rate", "batch_size", "momentum"))
        own = rate / (batch * (1 - momentum))
        target = trial.system_attrs[NOISE_TARGET_KEY]
        if thought["origin"] == "level_set":  # the level, in the refined noise
            assert math.log(own / target) == pytest.approx(0.0, abs=4.0)
        else:
            assert target == pytest.approx(own)


def test_a_pivot_of_few_choices_is_aimed_at_no_level() -> None:
    space = {"learning_rate": CategoricalDistribution((1e-3, 1e-2, 1e-1, 1.0)), "weight_decay": SPACE["weight_decay"]}
    sampler = NoiseTargetedSampler(search_space=space, fixed={"batch_size": 32, "momentum": 0.9}, n_startup=4)
    study = run(sampler, lambda p: abs(math.log(p["learning_rate"] / 0.032)), 12, space)
    for trial in study.trials:
        assert json.loads(trial.system_attrs[SEARCH_KEY])["origin"] != "level_set"
        own = trial.params["learning_rate"] / (32 * 0.1)
        assert trial.system_attrs[NOISE_TARGET_KEY] == pytest.approx(own)


def test_small_spaces_are_used_up_before_anything_repeats() -> None:
    space = {"learning_rate": CategoricalDistribution((0.01, 0.1, 1.0)), "batch_size": IntDistribution(1, 4)}
    sampler = NoiseTargetedSampler(search_space=space, reevaluate=False)
    study = run(sampler, lambda p: p["learning_rate"] * p["batch_size"], 14, space)
    assert len({tuple(t.params.values()) for t in study.trials[:12]}) == 12


def test_no_proposal_repeats_in_a_continuous_space_however_flat() -> None:
    study = run(NoiseTargetedSampler(search_space=SPACE, n_startup=4, reevaluate=False), lambda _: 1.0, 16)
    assert len({tuple(t.params.values()) for t in study.trials}) == 16


def test_renamed_knobs_count() -> None:
    space = {"lr": SPACE["learning_rate"], "bs": SPACE["batch_size"]}
    sampler = NoiseTargetedSampler(
        search_space=space, knobs={"lr": "learning_rate", "bs": "batch_size"}, fixed={"momentum": 0.9}
    )
    trial = run(sampler, lambda p: p["lr"], 1, space).trials[0]
    expected = trial.params["lr"] / (trial.params["bs"] * (1 - 0.9))
    assert trial.system_attrs[NOISE_TARGET_KEY] == pytest.approx(expected)


def test_works_in_study_optimize_without_a_search_space() -> None:
    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 3e-4, 3.0, log=True)
        batch = trial.suggest_int("batch_size", 8, 128, log=True)
        return abs(math.log(rate / batch / BEST))

    study = optuna.create_study(sampler=NoiseTargetedSampler(seed=0, n_startup=4))
    study.optimize(objective, n_trials=16)
    assert study.best_value < 0.2
    notes = json.loads(study.trials[-1].system_attrs[SEARCH_KEY])
    assert set(notes) >= {"origin", "optimum", "optimum_low", "optimum_high", "exponents"}


# ---- trials that run, fail, or say odd things ----


def test_running_trials_are_kept_clear_of() -> None:
    study = run(NoiseTargetedSampler(seed=0, search_space=SPACE), ridge, 14)
    wave = [study.ask(SPACE).params for _ in range(6)]
    unit = space_of(SPACE).units_of(wave)[0]
    gaps = np.linalg.norm(unit[:, None] - unit[None], axis=2) + np.eye(6)
    assert gaps.min() > 0.05


def test_a_running_trial_is_known_before_it_is_suggested() -> None:
    study = run(NoiseTargetedSampler(seed=0, search_space=SPACE, n_startup=2), ridge, 6)
    trial = study.ask()
    wanted = trial.relative_params
    frozen = study.get_trials(deepcopy=False)[trial.number]
    assert frozen.params == {}
    chunks = [v for k, v in sorted(frozen.system_attrs.items()) if k.startswith(PARAMS_KEY)]
    internal = json.loads("".join(chunks))
    assert {k: SPACE[k].to_external_repr(v) for k, v in internal.items()} == wanted
    assert all(len(json.dumps(c)) <= 2045 for c in chunks)
    # two processes that ask for the same number would meet: the second sees the first
    assert study.ask(SPACE).params != wanted


def test_a_long_parameter_list_is_chunked_and_torn_reads_are_survived() -> None:
    space = {f"parameter_number_{i:03d}": FloatDistribution(0, 1) for i in range(80)}
    study = run(NoiseTargetedSampler(search_space=space, n_startup=2), lambda p: sum(p.values()), 3, space)
    trial = study.ask()
    assert len(trial.relative_params) == 80
    number = sum(k.startswith(PARAMS_KEY) for k in study.trials[trial.number].system_attrs)
    assert number > 1
    study._storage.set_trial_system_attr(trial._trial_id, f"{PARAMS_KEY}:1", "torn")
    assert len(study.ask(space).params) == 80


def test_thousands_pending_and_failures_do_not_stop_it() -> None:
    study = run(NoiseTargetedSampler(search_space=SPACE, n_startup=2), ridge, 5)
    space, rng = space_of(SPACE), np.random.default_rng(0)
    for i in range(2000):
        study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING if i % 2 else TrialState.FAIL,
                params=space.params_of(rng.random(5)),
                distributions=SPACE,
            )
        )
    assert set(study.ask(SPACE).params) == set(SPACE)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 150.0, -1e300, 0.0])
def test_odd_values_neither_crash_nor_mislead(value: float) -> None:
    study = run(NoiseTargetedSampler(search_space=SPACE, n_startup=2), ridge, 6)
    for trial in [study.ask(SPACE) for _ in range(2)]:
        study.tell(trial, value)
    study.tell(study.ask(SPACE), None, state=TrialState.FAIL)
    seen = study.sampler.explain(study.trials)  # type: ignore[attr-defined]
    assert seen.trials == (6 if math.isinf(value) else 8)
    assert set(study.ask(SPACE).params) == set(SPACE)


def test_an_enqueued_trial_is_noted_as_it_will_run() -> None:
    study = optuna.create_study(sampler=NoiseTargetedSampler(search_space=SPACE))
    study.enqueue_trial({"learning_rate": 0.1, "batch_size": 10})
    trial = study.ask(SPACE)
    expected = 0.1 / (10 * (1 - trial.params["momentum"]))
    assert study.trials[0].system_attrs[NOISE_TARGET_KEY] == pytest.approx(expected)


def test_pickling_changes_nothing() -> None:
    sampler = NoiseTargetedSampler(seed=5, search_space=SPACE, n_startup=3)
    study = run(sampler, ridge, 6)
    copy = optuna.create_study(sampler=pickle.loads(pickle.dumps(sampler)))
    copy.add_trials(study.trials)
    assert copy.ask(SPACE).params == study.ask(SPACE).params


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_storages_that_are_files_change_nothing(kind: str, tmp_path: Path) -> None:
    file = str(tmp_path / "study")
    storage = (
        optuna.storages.RDBStorage(f"sqlite:///{file}")
        if kind == "sqlite"
        else optuna.storages.JournalStorage(JournalFileBackend(file))
    )
    plain = run(NoiseTargetedSampler(seed=5, search_space=SPACE, n_startup=3), ridge, 8)
    stored = optuna.create_study(storage=storage, sampler=NoiseTargetedSampler(seed=5, search_space=SPACE, n_startup=3))
    stored.optimize(lambda t: ridge({k: t._suggest(k, d) for k, d in SPACE.items()}), n_trials=8)
    assert [t.params for t in stored.trials] == [t.params for t in plain.trials]


def test_threads_that_ask_at_once_get_different_trials() -> None:
    study = optuna.create_study(sampler=NoiseTargetedSampler(seed=0, search_space=SPACE, reevaluate=False))
    study.optimize(lambda t: ridge({k: t._suggest(k, d) for k, d in SPACE.items()}), n_trials=16, n_jobs=4)
    assert len({tuple(t.params.values()) for t in study.trials}) == 16


def test_a_seed_of_none_differs_from_run_to_run() -> None:
    first, second = (run(NoiseTargetedSampler(seed=None, search_space=SPACE), ridge, 1).trials[0] for _ in range(2))
    assert first.params != second.params


def test_explaining_nothing_gives_the_definition() -> None:
    seen = NoiseTargetedSampler("paper_v1", search_space=SPACE).explain([])
    assert seen.exponents == {"learning_rate": 1.0, "batch_size": -1.0, "momentum": -2.0}
    assert (seen.optimum, seen.trials) == (None, 0)


# ---- messages ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise": "papr"}, "unknown noise 'papr'.*paper"),
        ({"knobs": {"lr": "learning_rat"}}, "unknown role 'learning_rat'.*learning_rate"),
        ({"knobs": {"a": "momentum", "b": "momentum"}}, "twice"),
        ({"fixed": {"momentum": 1.0}}, r"fixed momentum.*\[0, 1\).*1.0"),
        ({"fixed": {"batchsize": 3}}, "unknown constant 'batchsize'.*batch_size"),
        ({"n_startup": -1}, "n_startup must be >= 0, got -1"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"search_space": {"momentum": FloatDistribution(0, 2)}}, r"lie in \[0, 1\).*high=2.*knobs="),
        ({"search_space": {"batch_size": CategoricalDistribution(("s", "l"))}}, "must be different numbers.*knobs="),
        ({"search_space": {"learning_rate": FloatDistribution(-1, 1)}}, "learning_rate, which must"),
        (
            {
                "search_space": {"lr": FloatDistribution(0, 1), "eta": FloatDistribution(0, 1)},
                "knobs": {"lr": "learning_rate", "eta": "learning_rate"},
            },
            "twice",
        ),
    ],
)
def test_wrong_arguments_are_refused_with_a_way_out(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NoiseTargetedSampler(**arguments)


def test_a_role_can_be_taken_away() -> None:
    space = {"momentum": FloatDistribution(0, 2), "learning_rate": SPACE["learning_rate"]}
    sampler = NoiseTargetedSampler(search_space=space, knobs={"momentum": None})
    assert sampler.explain([]).exponents == {"learning_rate": 1.0}


def test_several_objectives_are_searched_and_the_first_is_reported() -> None:
    def values(params: Mapping[str, Any]) -> tuple[float, float]:
        z = math.log(params["learning_rate"] / params["batch_size"] / (1 - params["momentum"]) / BEST)
        return (z - 1) ** 2, (z + 1) ** 2

    sampler = NoiseTargetedSampler(seed=0, search_space=SPACE)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for _ in range(30):
        trial = study.ask(SPACE)
        study.tell(trial, values(trial.params))
    assert min(t.values[0] for t in study.best_trials) < 0.5
    assert min(t.values[1] for t in study.best_trials) < 0.5
    seen, found = sampler.explain(study.trials, study.directions), sampler.recommend(study.trials, study.directions)
    assert found is not None
    assert values(found.params)[0] < 0.5
    assert BEST < (seen.optimum or 0.0) < BEST * math.e**2


# ---- what is known, refused, or seen twice ----


def test_a_limit_is_learnt_from_trials_that_failed() -> None:
    study = optuna.create_study(sampler=NoiseTargetedSampler(seed=0, search_space=SPACE))
    late: list[int] = []
    for i in range(30):
        trial = study.ask(SPACE)
        large = trial.params["batch_size"] > 40
        late += [large] * (i >= 15)
        if large:
            trial.set_constraint("memory", math.log(2))
        study.tell(trial, None if large else ridge(trial.params), state=TrialState.FAIL if large else None)
    assert sum(late) <= 4
    found = study.sampler.recommend(study.trials)  # type: ignore[attr-defined]
    assert found.params["batch_size"] <= 40


def test_the_recommendation_is_no_lucky_draw() -> None:
    study = optuna.create_study(sampler=NoiseTargetedSampler(seed=0, search_space=SPACE))
    space, rng = space_of(SPACE), np.random.default_rng(0)
    for i in range(60):
        params = space.params_of(rng.random(5))
        value = ridge(params) + 0.05 * rng.normal()
        value = -1.5 if i == 7 and ridge(params) > -0.5 else value
        study.add_trial(optuna.create_trial(params=params, distributions=SPACE, value=value))
    found = study.sampler.recommend(study.trials)  # type: ignore[attr-defined]
    assert ridge(found.params) < -0.9
    assert found.mean == pytest.approx(ridge(found.params), abs=0.15)
    assert 0 < found.sd < 0.2


def test_a_prior_draws_the_first_noises_and_a_wrong_one_fades() -> None:
    def first(prior: NoisePrior | None) -> list[float]:
        study = run(NoiseTargetedSampler(seed=1, search_space=SPACE, prior=prior), ridge, 24)
        return [math.log(t.system_attrs[NOISE_TARGET_KEY] / BEST) for t in study.trials], study.best_value  # type: ignore[return-value]

    (near, _), (plain, _) = first(NoisePrior(BEST, BEST / 1.5, BEST * 1.5)), first(None)
    assert np.median(np.abs(near[:5])) < np.median(np.abs(plain[:5]))
    assert first(NoisePrior(BEST * 20, BEST * 15, BEST * 30))[1] < -0.95
    with pytest.raises(ValueError, match="must have 0 < low <= best <= high, got low=2, best=1, high=3"):
        NoisePrior(1.0, 2.0, 3.0)


def test_a_knob_that_does_not_act_does_not_count() -> None:
    space = {**SPACE, "optimizer": CategoricalDistribution(("sgd", "adamw"))}
    conditions = {"momentum": {"optimizer": ("sgd",)}}
    seen = make_knob_space(space, NOISE["paper"], check_names(None), check_fixed(None), None, conditions)
    params = {**seen.params_of(np.full(6, 0.5)), "optimizer": "adamw"}
    units, usable = seen.units_of([{**params, "momentum": m} for m in (0.0, 0.9)])
    assert usable.all()
    assert (units[0] == units[1]).all()
    without, _ = seen.units_of([{k: v for k, v in params.items() if k != "momentum"}])
    assert (without[0] == units[0]).all()
    expected = params["learning_rate"] / params["batch_size"]
    assert seen.points(units[:1]).log_noise[0] == pytest.approx(math.log(expected))


def test_a_choice_that_shifts_the_noise_is_learnt() -> None:
    space = {**SPACE, "optimizer": CategoricalDistribution(("plain", "loud"))}

    def loss(params: Mapping[str, Any]) -> float:
        rate = params["learning_rate"] * (5 if params["optimizer"] == "loud" else 1)
        return ridge({**params, "learning_rate": rate})

    sampler, rng = NoiseTargetedSampler(search_space=space), np.random.default_rng(0)
    drawn = [space_of(space).params_of(rng.random(6)) for _ in range(80)]
    trials = [optuna.create_trial(params=p, distributions=space, value=loss(p)) for p in drawn]
    shifts = sampler.explain(trials).shifts
    assert shifts["optimizer=loud"] / shifts["optimizer=plain"] == pytest.approx(5, rel=0.4)


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="'minimize' or 'maximize', got 'up'"):
        NoiseTargetedSampler().explain([], "up")


# ---- augmentation on the noise axis ----

TABLES = {"none": {0.0: 1.0, 1.0: 1.0}, "shift": {0.0: 1.0, 0.5: 1.5, 1.0: 3.0}, "mixup": {0.0: 1.0, 1.0: 0.5}}
AUGMENTED = {**SPACE, "augmentation": CategoricalDistribution(tuple(TABLES))}


def test_k_aug_is_log_linear_between_the_probed_strengths() -> None:
    k_aug = KAug(TABLES, "shift", 0.25)
    assert k_aug({}) == pytest.approx(math.sqrt(1.5))
    assert k_aug({"augmentation_strength": 1.0}) == 3.0
    assert k_aug({"augmentation_strength": 0.75}) == pytest.approx(math.sqrt(1.5 * 3.0))
    assert k_aug({"augmentation": "mixup", "augmentation_strength": 0.5}) == pytest.approx(math.sqrt(0.5))
    assert k_aug({"augmentation": "none"}) == 1.0
    assert pickle.loads(pickle.dumps(k_aug)) == k_aug
    with pytest.raises(ValueError, match="the probe did not measure augmentation 'cutmix'; known: mixup, none, shift"):
        k_aug({"augmentation": "cutmix"})
    with pytest.raises(ValueError, match=r"k_aug must be > 0 and finite, got 0.0 at shift 1"):
        KAug({"shift": {1.0: 0.0}})


def test_log_noise_holds_the_candidates_k_aug_and_its_exponent_may_be_refined() -> None:
    k_aug = KAug(TABLES)
    space = make_knob_space(AUGMENTED, NOISE["paper_aug"], check_names(None), check_fixed(None), k_aug)
    assert space.factor_roles[-1] == "k_aug"
    unit = np.random.default_rng(0).random((20, len(AUGMENTED)))
    points = space.points(unit)
    for row, log_noise, factor in zip(unit, points.log_noise, points.factors[:, -1], strict=True):
        params = space.params_of(row)
        settings = {k: params[k] for k in ("learning_rate", "batch_size", "momentum")}
        assert log_noise == pytest.approx(math.log(NOISE["paper"].predict(settings) * k_aug(params)), abs=1e-12)
        assert factor + space.centre[-1] == pytest.approx(math.log(k_aug(params)), abs=1e-12)
    tilt = np.linspace(-0.1, 0.1, len(space.factor_roles))
    target = np.quantile(points.log_noise, 0.5) * np.ones(20)
    solved, reached = space.solve(unit, target, tilt)
    again = space.points(solved)
    assert reached.sum() >= 10
    assert (again.log_noise + again.factors @ tilt)[reached] == pytest.approx(target[reached], abs=0.02)


def test_a_k_aug_that_never_varies_is_no_factor() -> None:
    constant = KAug({"shift": {0.0: 1.3, 1.0: 1.3}}, "shift")
    space = make_knob_space(SPACE, NOISE["paper_aug"], check_names(None), check_fixed(None), constant)
    assert "k_aug" not in space.factor_roles
    plain = space_of(SPACE)
    unit = np.random.default_rng(0).random((5, len(SPACE)))
    assert space.points(unit).log_noise - plain.points(unit).log_noise == pytest.approx(np.full(5, math.log(1.3)))


def test_the_search_trades_augmentation_against_the_learning_rate() -> None:
    k_aug = KAug({"shift": {0.0: 1.0, 1.0: 30.0}}, "shift")

    def loss(params: Mapping[str, Any]) -> float:
        noise = k_aug(params) * params["learning_rate"] / (params["batch_size"] * (1 - params["momentum"]))
        return -math.exp(-0.5 * math.log(noise / BEST) ** 2)

    sampler = NoiseTargetedSampler("paper_aug", search_space=SPACE, k_aug=k_aug)
    study = run(sampler, loss, 30)
    seen = sampler.explain(study.trials)
    assert BEST / 2 < (seen.optimum or 0) < BEST * 2
    assert seen.exponents["k_aug"] == pytest.approx(1.0, abs=0.25)
    assert seen.variance_share > 0.5
    again = run(pickle.loads(pickle.dumps(sampler)), loss, 3)
    assert [t.params for t in again.trials] == [t.params for t in study.trials[:3]]


def test_k_aug_works_without_a_given_search_space() -> None:
    sampler = NoiseTargetedSampler("paper_aug", k_aug=KAug(TABLES), n_startup=3)
    study = run(sampler, lambda p: p["learning_rate"], 6, AUGMENTED)
    assert len(study.trials) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"noise": "paper_aug"}, r"noise 'paper_aug' is k_aug·η/\(B\(1−μ\)\); give k_aug, a function .*sweeper.KAug"),
        ({"k_aug": KAug(TABLES)}, "noise 'paper' is .*; leave k_aug out, or take noise='paper_aug'"),
        (
            {"noise": "paper_full"},
            "noise 'paper_full' is measured during training, so a search cannot target it; use paper or paper_aug; "
            "`sweeper status DIR --noise paper_full` shows it",
        ),
        ({"noise": "fitted"}, "noise 'fitted' has no exponents before the first trials, so a search cannot target it"),
        ({"fixed": {"beta1": 1.0}}, r"fixed beta1.*\[0, 1\).*1.0"),
    ],
)
def test_noises_that_no_search_can_target_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NoiseTargetedSampler(**arguments)


def test_constants_of_adamw_reach_the_formula() -> None:
    knobs = {k: SPACE[k] for k in ("learning_rate", "batch_size", "weight_decay")}
    unit = np.full((1, 3), 0.5)
    for name, fixed in (("adamw_angular", {"beta1": 0.5}), ("adamw_tau", {"examples": 720.0})):
        space = space_of(knobs, name, **fixed)
        settings = {**space.params_of(unit[0]), **fixed}
        assert space.points(unit).log_noise[0] == pytest.approx(math.log(NOISE[name].predict(settings)))


def test_the_share_of_the_noise_is_not_stated_where_the_model_predicts_nothing() -> None:
    rng = np.random.default_rng(0)
    sampler = NoiseTargetedSampler(seed=0, search_space=SPACE)
    study = run(sampler, lambda _: float(rng.standard_normal()), 24)
    said = sampler.explain(study.trials)
    assert said.variance_share is None
    assert said.share_low is said.share_high is None
    told = run(sampler, lambda p: ridge(p) + 0.02 * float(rng.standard_normal()), 24)
    said = sampler.explain(told.trials)
    assert said.variance_share is not None
    assert said.share_low is not None
    assert said.share_high is not None
    assert 0.5 < said.share_low <= said.share_high <= 1


def test_exponents_rest_on_feasible_trials_and_have_no_interval_where_they_are_few() -> None:
    # beyond the best noise trials break: a penalty without a slope, which would bend the exponents
    space = {k: v for k, v in SPACE.items() if k != "augmentation_strength"}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rng = np.random.default_rng(0)
    for _ in range(60):
        trial = study.ask(dict(space))
        noise = trial.params["learning_rate"] / (trial.params["batch_size"] * (1 - trial.params["momentum"]))
        broken = noise > 4 * BEST
        trial.set_constraint("viable", float(broken) - 0.5)
        study.tell(trial, 5.0 if broken else ridge(trial.params) + 0.05 * float(rng.standard_normal()))
    sampler = NoiseTargetedSampler(seed=0, search_space=space)
    said = sampler.explain(study.trials)
    for role, wanted in {"batch_size": -1.0, "momentum": -1.0, "weight_decay": 0.0}.items():
        assert said.exponents[role] == pytest.approx(wanted, abs=0.15)
        assert said.exponent_low[role] < said.exponent_high[role]
    few = sampler.explain(study.trials[:12])
    assert few.exponent_low == few.exponent_high == {}
    assert set(few.exponents) == set(said.exponents)
