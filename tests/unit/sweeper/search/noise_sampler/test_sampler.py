"""Searches that find the best noise, and what the sampler asks for and says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.search.noise_sampler.sampler import NOISE_TARGET_KEY, SEARCH_KEY, NoiseTargetedSampler
from sweeper.search.samplers import SAMPLERS
from tests.support.noise_search import BEST, SPACE, ridge, run, space_of


def test_finds_the_best_noise_and_says_so() -> None:
    sampler = NoiseTargetedSampler(seed=1, search_space=SPACE)
    study = run(sampler, ridge, 30)
    assert study.best_value < -0.98
    seen = sampler.explain(study.trials, "minimize")
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
    assert seen == sampler.explain(study.trials, study.direction) == sampler.explain(study.trials, ["minimize"])
    best = sampler.recommend(study.trials, ["minimize"])
    assert best is not None
    assert ridge(best.params) < -0.95


def test_maximizing_is_minimizing_with_the_other_sign() -> None:
    low, high = (NoiseTargetedSampler(seed=1, search_space=SPACE) for _ in range(2))
    down, up = run(low, ridge, 14), run(high, lambda p: -ridge(p), 14, direction="maximize")
    assert [t.params for t in down.trials] == [t.params for t in up.trials]
    assert low.explain(down.trials, "minimize") == high.explain(up.trials, "maximize")
    one, other = low.recommend(down.trials, ["minimize"]), high.recommend(up.trials, ["maximize"])
    assert one is not None
    assert other is not None
    assert one.params == other.params


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
    study = run(NoiseTargetedSampler(seed=0, search_space=SPACE, n_startup=5), ridge, 24)
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


def test_the_first_sixteen_trials_are_a_map_in_optuna_and_five_in_a_sweep() -> None:
    make = SAMPLERS["noise"].make
    assert make is not None
    samplers = NoiseTargetedSampler(seed=0, search_space=SPACE), make(seed=0, knobs=SPACE, noise="paper", constants={})
    for sampler, count in zip(samplers, (16, 5), strict=True):
        study = run(sampler, ridge, count + 1)
        origins = [json.loads(t.system_attrs[SEARCH_KEY])["origin"] for t in study.trials]
        assert origins[:count] == ["startup"] * count
        assert origins[count] != "startup"


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
