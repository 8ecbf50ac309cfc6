"""A study whose objective changes a range, adds a knob or removes one: it stays modelled, and one warning says so."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import FloatDistribution

from sweeper.search.noise_sampler.sampler import SEARCH_KEY, NoiseTargetedSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)
BEST = 8e-3


def bowl(trial: optuna.Trial, low: float = 1e-3, high: float = 1.0) -> float:
    return math.log(trial.suggest_float("learning_rate", low, high, log=True) / BEST) ** 2


def searched(objective: Callable[[optuna.Trial], float], n: int, **options: object) -> tuple[optuna.Study, list[str]]:
    sampler = NoiseTargetedSampler(seed=0, **options)  # type: ignore[arg-type]
    study = optuna.create_study(sampler=sampler)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        study.optimize(objective, n_trials=n)
        sampler.recommend(study.trials)
        sampler.explain(study.trials)
    return study, [str(w.message) for w in caught if w.category is UserWarning]


def test_a_narrowed_range_is_modelled_with_one_warning() -> None:
    study, told = searched(lambda t: bowl(t, high=1.0 if t.number < 10 else 0.5), 25)
    later = [t.params["learning_rate"] for t in study.trials[11:]]
    assert max(later) <= 0.5
    assert sum(abs(math.log(x / BEST)) < math.log(1.25) for x in later) >= 8  # uniform draws: 1 of 14
    assert [("learning_rate" in t and "changed" in t) for t in told] == [True]
    sampler = study.sampler
    assert isinstance(sampler, NoiseTargetedSampler)
    with pytest.warns(UserWarning, match="changed"):  # a fresh sampler has not said it yet
        found = NoiseTargetedSampler(seed=0).recommend(study.trials)
    assert found is not None
    assert found.params["learning_rate"] == pytest.approx(BEST, rel=0.05)
    assert sampler.explain(study.trials).optimum == pytest.approx(BEST, rel=0.05)
    assert pickle.loads(pickle.dumps(sampler)).recommend(study.trials) is not None  # what was said is kept


def test_trials_outside_a_new_range_teach_where_they_were() -> None:
    # the loss falls towards .5 and beyond: trials at 1 are good, and must not be taken for trials at the new end
    study, _ = searched(lambda t: bowl(t, 1e-3, 0.002) if t.number >= 12 else bowl(t), 20)
    assert all(1e-3 <= t.params["learning_rate"] <= 0.002 for t in study.trials[12:])
    # the best of the new range is its upper end, although trials beyond it were worse
    with pytest.warns(UserWarning, match="changed"):
        found = NoiseTargetedSampler(seed=0).recommend(study.trials)
    assert found is not None
    assert found.number >= 12 or found.params["learning_rate"] <= 0.002
    assert found.params["learning_rate"] > 0.0018


def test_the_trial_that_narrows_the_range_gets_the_nearest_value() -> None:
    study = optuna.create_study(sampler=NoiseTargetedSampler(seed=0, n_startup=5))
    study.optimize(lambda t: bowl(t, 0.1, 1.0), n_trials=6)  # the best lies at the lower end
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = study.ask({"learning_rate": FloatDistribution(0.3, 1.0, log=True)})
    proposed = json.loads(study.trials[-1].system_attrs["sweeper:relative_params:0"])["learning_rate"]
    assert proposed < 0.3
    assert trial.params["learning_rate"] == pytest.approx(0.3)


def test_an_added_knob_joins_the_model_and_earlier_trials_count_as_stated() -> None:
    def objective(trial: optuna.Trial) -> float:
        loss = bowl(trial)
        if trial.number >= 8:
            loss += (trial.suggest_float("momentum", 0.0, 0.95) - 0.5) ** 2
        return loss

    study, told = searched(objective, 24, fixed={"momentum": 0.9})
    assert [t for t in told if "some finished trials lack 'momentum' and count at 0.9" in t]
    assert len(told) == len(set(told)) == 2  # drawn at random at first, then modelled
    assert "are random" in told[0]
    assert "momentum" in study.trials[-1].system_attrs["sweeper:relative_params:0"]
    with pytest.warns(UserWarning, match="lack 'momentum'"):
        found = NoiseTargetedSampler(seed=0, fixed={"momentum": 0.9}).explain(study.trials)
    assert found.trials == 24  # the trials without the knob teach
    assert "momentum" in found.exponents


def test_a_removed_knob_leaves_the_others_modelled() -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number < 8:
            trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
        return bowl(trial)

    study, told = searched(objective, 20)
    assert [t for t in told if "'weight_decay': the model ignores it" in t] == told
    assert len(told) == 1
    last = study.trials[-1].system_attrs
    assert "weight_decay" not in last["sweeper:relative_params:0"]
    assert '"trials": 19' in last[SEARCH_KEY]  # those with the knob still teach
    assert study.best_params["learning_rate"] == pytest.approx(BEST, rel=0.1)


def test_a_given_space_with_a_knob_that_earlier_trials_lack_is_modelled() -> None:
    study, _ = searched(bowl, 8)
    space = {"learning_rate": FloatDistribution(1e-3, 1.0, log=True), "weight_decay": FloatDistribution(1e-5, 1e-2)}
    study.sampler = NoiseTargetedSampler(seed=0, search_space=space, n_startup=5)
    with pytest.warns(UserWarning, match="lack 'weight_decay' and count at the middle of its range"):
        trial = study.ask(space)
    assert '"trials": 8' in study.trials[trial.number].system_attrs[SEARCH_KEY]
