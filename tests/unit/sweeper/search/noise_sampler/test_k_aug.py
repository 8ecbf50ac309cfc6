"""Augmentation on the noise axis, and noises that no search can target."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from sweeper.search.k_aug import KAug
from sweeper.search.noise_sampler.encoding import check_fixed, check_names
from sweeper.search.noise_sampler.level_sets import make_knob_space
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler
from tests.support.noise_search import BEST, SPACE, ridge, run, space_of
from trainables.noise import NOISE

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
    assert (seen.variance_share or 0.0) > 0.5
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


def test_columns_of_policies_and_strengths_agree_with_single_configurations() -> None:
    k_aug = KAug(TABLES)
    strengths = np.array([0.0, 0.25, 0.5, 0.9, 1.0, 1.5, -0.1])
    for policy in TABLES:
        single = [k_aug({"augmentation": policy, "augmentation_strength": s}) for s in strengths.tolist()]
        assert k_aug.of_columns([policy] * len(strengths), strengths).tolist() == single
    mixed = k_aug.of_columns(["shift", "mixup", "shift"], np.array([1.0, 1.0, 0.5]))
    assert mixed.tolist() == [3.0, 0.5, 1.5]
    assert KAug({"shift": {0.5: 2.0}}).of_columns(["shift"] * 3, np.array([0.0, 0.5, 1.0])).tolist() == [2.0] * 3
    with pytest.raises(ValueError, match="the probe did not measure augmentation 'cutmix'"):
        k_aug.of_columns(["shift", "cutmix"], np.zeros(2))


def test_the_space_reads_k_aug_in_columns_and_any_callable_point_by_point() -> None:
    knobs = {**AUGMENTED, "augmentation_strength": FloatDistribution(0.0, 1.0)}
    table = KAug(TABLES)
    asked: list[Mapping[str, Any]] = []

    def by_point(params: Mapping[str, Any]) -> float:
        asked.append(params)
        return table(params)

    args = knobs, NOISE["paper_aug"], check_names(None), check_fixed(None)
    in_columns, single = make_knob_space(*args, table), make_knob_space(*args, by_point)
    unit = np.random.default_rng(1).random((40, len(knobs)))
    asked.clear()
    expected = single.points(unit)
    assert {tuple(p) for p in map(dict, asked)} == {tuple(knobs)}
    points = in_columns.points(unit)
    assert points.log_noise.tolist() == expected.log_noise.tolist()
    assert points.factors.tolist() == expected.factors.tolist()
    assert points.step.tolist() == expected.step.tolist()
