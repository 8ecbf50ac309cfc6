"""Trials with a share of the training budget: what they tell the sampler, and what it recommends."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeper.search.noise_sampler.fit import Parts, SurrogateFit, fit_surrogate
from sweeper.search.noise_sampler.sampler import NoiseTargetedSampler
from sweeper.search.noise_sampler.study_attrs import PROXY_KEY, read_observations

SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-4, 1.0, log=True),
    "batch_size": CategoricalDistribution((8, 16, 32, 64, 128)),
}
BEST = np.log(1e-3)


def _loss(params: dict[str, Any], factor: float = 1.0) -> float:
    gap = np.log(params["learning_rate"] / params["batch_size"]) - BEST + np.log(factor)
    return float(0.2 + 0.1 * (1.0 - np.exp(-0.5 * (gap / 1.2) ** 2)))


def _trials(count: int, proxy: bool, factor: float = 1.0, sign: float = 1.0, seed: int = 0) -> list[FrozenTrial]:
    """Return trials at random knobs; a proxy's best noise is lower by a factor, and its losses are higher."""
    rng = np.random.default_rng([seed, proxy])
    out: list[FrozenTrial] = []
    for _ in range(count):
        params = {"learning_rate": 10 ** rng.uniform(-4, 0), "batch_size": int(rng.choice((8, 16, 32, 64, 128)))}
        loss = sign * _loss(params, factor) + 0.3 * proxy + 0.005 * rng.standard_normal()
        marks = {PROXY_KEY: True} if proxy else None
        out.append(create_trial(params=params, distributions=SPACE, value=loss, system_attrs=marks))
    return out


def _numbered(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


@cache
def _fit(factor: float = 1.0, sign: float = 1.0, full: int = 16) -> SurrogateFit:
    trials = _numbered([*_trials(32, True, factor, sign), *_trials(full, False)])
    space = NoiseTargetedSampler(search_space=SPACE)._space(SPACE)
    seen = read_observations(space, trials, [optuna.study.StudyDirection.MINIMIZE])
    assert seen.proxy.sum() == 32
    return fit_surrogate(space, seen, np.ones(1), np.zeros((0, 2)), Parts())


def test_the_best_noise_of_a_proxy_may_lie_elsewhere() -> None:
    assert _fit(factor=4.0).model.theta.shift == pytest.approx(np.log(4.0), abs=0.5)
    assert _fit().model.theta.shift == pytest.approx(0.0, abs=0.3)


def test_the_trials_in_full_decide_how_far_a_proxy_is_believed() -> None:
    assert _fit().model.theta.agreement > 0.8
    assert _fit(sign=-1.0).model.theta.agreement < 0.5


def test_a_proxy_with_higher_losses_says_where_the_full_budget_is_best() -> None:
    fit = _fit(full=4)
    rate = np.geomspace(1e-4, 1.0, 60)
    unit, _ = fit.space.units_of([{"learning_rate": r, "batch_size": 32} for r in rate])
    mean, _ = fit.model.predict(fit.space.points(unit))
    assert np.log(rate[int(mean.argmin())] / 32) == pytest.approx(BEST, abs=0.6)
    assert fit.losses.max() < 0.4  # the level is that of the full budget


def test_only_trials_in_full_are_recommended() -> None:
    sampler = NoiseTargetedSampler(search_space=SPACE)
    trials = _numbered([*_trials(20, True), *_trials(5, False)])
    ranked = sampler.rank(trials, count=30)
    assert sorted(r.number for r in ranked) == [20, 21, 22, 23, 24]
    assert sampler.rank(_numbered(_trials(20, True))) == []


@pytest.mark.parametrize("running", [(), (3e-2, 1.0)])
def test_the_search_may_try_the_points_of_the_map_in_full(running: tuple[float, ...]) -> None:
    space: dict[str, BaseDistribution] = {"learning_rate": CategoricalDistribution((1e-3, 3e-2, 1.0))}
    study = optuna.create_study(sampler=NoiseTargetedSampler(search_space=space, n_startup=0))
    for rate in (1e-3, 3e-2, 1.0):
        params = {"learning_rate": rate, "batch_size": 32}
        study.add_trial(
            create_trial(
                params={"learning_rate": rate},
                distributions=space,
                value=_loss(params),
                system_attrs={PROXY_KEY: True},
            )
        )
    for rate in running:  # again, at a share of the budget
        study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params={"learning_rate": rate},
                distributions=space,
                system_attrs={PROXY_KEY: True},
            )
        )
    assert study.ask(space).params["learning_rate"] == 3e-2


def test_a_proxy_that_the_model_does_not_know_yet_tells_it_nothing() -> None:
    proposed: list[float] = []
    for running in (True, False):
        study = optuna.create_study(sampler=NoiseTargetedSampler(search_space=SPACE, n_startup=0))
        study.add_trials(_trials(6, False))
        state = TrialState.RUNNING if running else TrialState.FAIL
        for trial in _trials(3, True):
            marks = {PROXY_KEY: True}
            study.add_trial(create_trial(state=state, params=trial.params, distributions=SPACE, system_attrs=marks))
        proposed.append(study.ask(SPACE).params["learning_rate"])
    assert proposed[0] == proposed[1]
