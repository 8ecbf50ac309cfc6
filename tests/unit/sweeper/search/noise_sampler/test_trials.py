"""Trials that run, fail or hold odd values; arguments that the sampler refuses."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweeper.search.noise_sampler.encoding import check_fixed, check_names
from sweeper.search.noise_sampler.level_sets import make_knob_space
from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.noise_sampler.sampler import NOISE_TARGET_KEY, NoiseTargetedSampler
from sweeper.search.noise_sampler.study_attrs import PARAMS_KEY
from tests.support.noise_search import BEST, SPACE, ridge, run, space_of
from trainables.noise import NOISE


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


def test_a_best_at_a_bound_of_the_space_is_named() -> None:
    def small_batches(params: Mapping[str, Any]) -> float:
        return ridge(params) + math.log(params["batch_size"])

    sampler = NoiseTargetedSampler(seed=0, search_space=SPACE, n_startup=8)
    study = run(sampler, small_batches, 20)
    found = sampler.recommend(study.trials)
    assert found is not None
    assert "batch_size" in found.at_bounds
    assert "learning_rate" not in found.at_bounds
