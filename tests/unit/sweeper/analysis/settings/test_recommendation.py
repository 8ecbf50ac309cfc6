"""Recommended settings against truths whose optimum is known."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import sweeper
from search_spaces import Space
from sweeper import SweepSpec
from sweeper.analysis.settings.recommendation import fit_model, recommend_settings
from sweeper.config.space import load_space
from sweeper.errors import SpecError
from sweeper.search.objectives import OBJECTIVES
from tests.support.settings_rows import PARENTS, settings_row, settings_rows, with_stages
from tests.support.trial_rows import table
from trainables.noise import NOISE
from trainables.pair.synthetic import expected_gain
from trainables.spec import PairSpec

SPEC = SweepSpec(space="synthetic", objective="merged_loss")
FIXED = {"dataset": "none", "model": "none", "trainable": "synthetic", "base": {"steps": 0}}
RATE = FloatDistribution(1e-3, 1.0, log=True)
BATCH = IntDistribution(8, 128, log=True)
MOMENTUM = CategoricalDistribution((0.0, 0.5, 0.9))
SGD = Space("sgd", FIXED, {"learning_rate": RATE, "batch_size": BATCH, "momentum": MOMENTUM})


def noise_of(spec: PairSpec) -> float:
    return spec.learning_rate / (spec.batch_size * (1.0 - spec.momentum))


def hump(spec: PairSpec, best: float = 3e-3) -> float:
    return 0.05 * math.exp(-0.5 * (math.log(noise_of(spec) / best) / 1.2) ** 2)


def recommend(space: Space, rows: list[Any], **more: Any) -> Any:
    return recommend_settings(SPEC, space, table(rows), **more)


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return settings_rows(SGD, hump, 40)


@pytest.mark.parametrize("fixed", [{}, {"batch_size": 16}, {"batch_size": 100, "momentum": 0.9}, {"momentum": 0.0}])
def test_the_settings_reach_the_known_best_gain(rows: list[Any], fixed: dict[str, Any]) -> None:
    found = recommend(SGD, rows, **fixed)
    assert {k: found.params[k] for k in fixed} == fixed
    assert found.fixed == tuple(fixed)
    assert set(found.params) == set(SGD.knobs)
    # the hump's height is .05, so the settings lose at most a tenth of it
    assert hump(found.spec) > 0.045
    assert found.noise == pytest.approx(noise_of(found.spec))
    assert found.scores["gain_mean"].mean == pytest.approx(hump(found.spec), abs=0.006)
    assert found.predicted.mean == pytest.approx(PARENTS - hump(found.spec), abs=0.006)
    assert found.predicted == found.scores["merged_loss"]


def test_the_optimum_of_the_closed_form_is_found(tmp_path: Any) -> None:
    spec = SweepSpec(space="synthetic", runner="inline", sampler="qmc", trials=60, out=str(tmp_path / "run"))
    trials = sweeper.run(spec).trials
    found = recommend_settings(spec, load_space(spec), trials, batch_size=64)

    def truth(rate: float, momentum: float, decay: float, strength: float) -> float:
        noise = NOISE["paper"].predict({"learning_rate": rate, "batch_size": 64, "momentum": momentum})
        parents = 0.2 - 0.03 * strength + 0.02 * abs(math.log10(decay + 1e-6) + 3)
        return parents - expected_gain(noise)

    grid = itertools.product(np.geomspace(3e-4, 3, 60), (0.0, 0.9), np.geomspace(1e-5, 3e-2, 20), (0.0, 0.5, 1.0))
    values = [truth(*point) for point in grid]
    p = found.params
    reached = truth(p["learning_rate"], p["momentum"], p["weight_decay"], p["augmentation_strength"])
    # all of the grid but its best twentieth loses more
    assert reached < min(values) + 0.015 < np.quantile(values, 0.1)
    assert abs(found.predicted.mean - reached) < 0.02


def test_the_same_arguments_give_the_same_settings(rows: list[Any]) -> None:
    once, again = (recommend(SGD, rows, batch_size=32, seed=5) for _ in range(2))
    assert once == again


def test_the_interval_holds_the_best_learning_rate_and_widens_far_from_the_data(rows: list[Any]) -> None:
    near, far = (recommend(SGD, rows, batch_size=size, momentum=0.5) for size in (32, 400))
    for found, size in ((near, 32), (far, 400)):
        assert found.learning_rate_low < 3e-3 * size * 0.5 < found.learning_rate_high
        assert found.learning_rate_low < found.params["learning_rate"] < found.learning_rate_high
    assert far.learning_rate_high / far.learning_rate_low > near.learning_rate_high / near.learning_rate_low
    assert recommend(SGD, rows, learning_rate=0.05).learning_rate_low is None


def test_a_value_outside_the_tried_range_is_said(rows: list[Any]) -> None:
    found = recommend(SGD, rows, batch_size=256)
    assert found.outside_tried == ("batch_size",)
    assert any("the batch size lies outside the tried range" in note for note in found.notes)
    assert found.scores["merged_loss"].sd > recommend(SGD, rows, batch_size=32).scores["merged_loss"].sd


def test_harm_and_a_noise_far_from_the_best_are_said(rows: list[Any]) -> None:
    good = recommend_settings(SPEC, SGD, table(rows), objective="gain_mean")
    assert not [n for n in good.notes if "worse than its parents" in n or "far outside the 90 %" in n]
    falling = settings_rows(SGD, lambda spec: hump(spec) - 0.02, 40)
    bad = recommend_settings(SPEC, SGD, table(falling), objective="gain_mean", learning_rate=1.0, batch_size=8)
    assert bad.predicted.mean < 0
    assert [n for n in bad.notes if n.startswith("the merge is predicted to be worse than its parents")]
    (note,) = [n for n in bad.notes if "lies far outside the 90 % interval of the best noise" in n]
    assert "the noise 0.125 " in note or "the noise 1.25 " in note or "the noise 0.25 " in note


def test_a_momentum_between_the_choices_is_interpolated(rows: list[Any]) -> None:
    found = recommend(SGD, rows, momentum=0.7, batch_size=32)
    assert found.params["momentum"] == 0.7
    assert found.outside_tried == ()
    assert hump(found.spec) > 0.045


@pytest.mark.parametrize(("momentum", "outside"), [(0.905, False), (0.95, True), (0.99, True)])
def test_a_momentum_beyond_the_choices_is_said(rows: list[Any], momentum: float, outside: bool) -> None:
    found = recommend(SGD, rows, momentum=momentum, batch_size=32)
    assert found.outside_tried == (("momentum",) if outside else ())
    assert any("the momentum lies outside the tried range (0 to 0.9)" in note for note in found.notes) == outside


def test_a_field_that_no_trial_varied_can_be_fixed_and_is_said() -> None:
    space = Space("one momentum", {**FIXED, "momentum": 0.9}, {"learning_rate": RATE, "batch_size": BATCH})
    rows = settings_rows(space, hump, 40)
    found = recommend(space, rows, momentum=0.5)
    assert found.params["momentum"] == 0.5
    assert found.outside_tried == ("momentum",)
    assert hump(found.spec) > 0.04
    assert "momentum" not in recommend(space, rows, momentum=0.9).params


# spaces of every kind


def test_conditional_and_categorical_knobs() -> None:
    space = Space(
        "conditional",
        FIXED,
        {
            "learning_rate": RATE,
            "batch_size": BATCH,
            "schedule": CategoricalDistribution(("constant", "wsd")),
            "decay": FloatDistribution(0.0, 0.9),
            "augmentation": CategoricalDistribution(("none", "shift", "crop_flip")),
        },
        conditions={"decay": {"schedule": ("wsd",)}},
    )

    def truth(spec: PairSpec) -> float:
        noise = -0.02 * min(abs(math.log(noise_of(spec) / 3e-3)), 4.0)
        decay = 0.06 - 0.1 * (spec.decay - 0.6) ** 2 if spec.schedule == "wsd" else 0.0
        return noise + decay + {"none": 0.0, "shift": 0.05, "crop_flip": -0.05}[spec.augmentation]

    rows = settings_rows(space, truth, 90)
    found = recommend(space, rows)
    assert (found.params["schedule"], found.params["augmentation"]) == ("wsd", "shift")
    assert found.params["decay"] == pytest.approx(0.6, abs=0.25)
    assert truth(found.spec) > 0.08
    # without the choice that enables it, the knob is left out
    constant = [r for r in rows if PairSpec.from_json(r["spec"]).schedule == "constant"]
    other = recommend(space, constant)
    assert other.params["schedule"] == "constant"
    assert "decay" not in other.params


def test_a_space_of_adamw() -> None:
    space = Space("adamw", {**FIXED, "optimizer": "adamw"}, {"learning_rate": RATE, "batch_size": BATCH})

    def truth(spec: PairSpec) -> float:
        return 0.05 * math.exp(-0.5 * (math.log(spec.learning_rate / math.sqrt(spec.batch_size) / 5e-3) / 1.2) ** 2)

    rows = settings_rows(space, truth, 40)
    spec = SPEC.model_copy(update={"noise": "adam_sde"})
    found = recommend_settings(spec, space, table(rows), batch_size=64)
    assert found.noise_name == "adam_sde"
    assert found.noise == pytest.approx(found.params["learning_rate"] / 8)
    assert truth(found.spec) > 0.045
    with pytest.raises(SpecError, match="momentum has no effect with optimizer 'adamw'; leave it out"):
        recommend_settings(spec, space, table(rows), momentum=0.9)


def test_a_space_without_noise_knobs() -> None:
    space = Space(
        "no noise", {**FIXED, "learning_rate": 0.1, "batch_size": 32}, {"warmup": FloatDistribution(0.0, 0.8)}
    )

    def truth(spec: PairSpec) -> float:
        return 0.05 - 0.2 * (spec.warmup - 0.3) ** 2

    found = recommend(space, settings_rows(space, truth, 30))
    assert found.params.keys() == {"warmup"}
    assert found.params["warmup"] == pytest.approx(0.3, abs=0.12)
    assert found.learning_rate_low is None
    assert found.noise == pytest.approx(0.1 / 32)


def test_the_first_of_several_objectives_ranks(rows: list[Any]) -> None:
    costly = [{**r, "device_seconds": 128.0 / r["batch_size"]} for r in rows]
    both = SweepSpec.checked({"space": "synthetic", "objective": ["gain_mean", "cost"]})
    found = recommend_settings(both, SGD, table(costly))
    assert found.objective == "gain_mean"
    assert found.predicted == found.scores["gain_mean"]
    assert hump(found.spec) > 0.045
    cheap = recommend_settings(both, SGD, table(costly), objective="cost")
    assert cheap.params["batch_size"] > 100
    assert cheap.predicted.mean == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_settings(rows: list[Any], objective: str) -> None:
    column = OBJECTIVES[objective].column
    full = [{**r, column: r.get(column) or 0.5 + hump(PairSpec.from_json(r["spec"]))} for r in rows]
    found = recommend(SGD, full, objective=objective)
    values = [r[column] for r in full]
    assert min(values) - 0.1 < found.predicted.mean < max(values) + 0.1


# the limit of stability


def unstable(spec: PairSpec) -> float:
    return hump(spec, 1e-2) if spec.learning_rate / (1.0 - spec.momentum) < 0.4 else math.nan


def test_the_settings_stay_below_the_limit_of_stability() -> None:
    rows = settings_rows(SGD, unstable, 80)
    found = recommend(SGD, rows, batch_size=128)
    assert found.stability_limit == pytest.approx(0.4, rel=0.3)
    assert found.step < found.stability_limit
    # the best noise at batch size 128 needs a step of 1.28
    assert found.noise < 1e-2
    assert found.learning_rate_high <= found.stability_limit * (1.0 - found.params["momentum"])
    assert any("keep the learning rate below" in note for note in found.notes)


def test_a_step_beyond_the_limit_is_refused_before_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.analysis.settings import recommendation

    rows = settings_rows(SGD, unstable, 80)
    monkeypatch.setattr(recommendation, "fit_scores", lambda *_: pytest.fail("fitted"))
    with pytest.raises(SpecError, match=r"gives η/\(1−μ\) = 9, and most trials at .* give a smaller learning_rate"):
        recommend(SGD, rows, learning_rate=0.9, momentum=0.9)
    with pytest.raises(SpecError, match="batch_size must be at most 720, the number of training examples, got 721"):
        recommend(SGD, rows, batch_size=721)
    for fixed, message in (
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, got 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"learning_rate": math.nan}, "learning_rate must be > 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
    ):
        with pytest.raises(SpecError, match=message):
            recommend(SGD, rows, **fixed)


# too little to say anything


def test_few_trials_are_refused_with_the_number_that_is_missing(rows: list[Any]) -> None:
    with pytest.raises(SpecError, match="settings need 6 viable configurations, got 4; run at least 2 further trials"):
        recommend(SGD, rows[:4])
    with pytest.raises(SpecError, match="got 0; run at least 6 further trials"):
        recommend(SGD, [])


def test_where_everything_diverged_there_is_nothing_to_recommend() -> None:
    rows = settings_rows(SGD, lambda _: math.nan, 12)
    with pytest.raises(SpecError, match=r"nothing to recommend \(12 diverged\); search lower learning rates"):
        recommend(SGD, rows)


def test_an_unknown_objective_is_refused(rows: list[Any]) -> None:
    with pytest.raises(SpecError, match="did you mean gain_mean"):
        recommend(SGD, rows, objective="gain_men")


# confirmed settings


def test_settings_with_fresh_pairs_win_unless_clearly_worse(rows: list[Any]) -> None:
    rng = np.random.default_rng(1)
    near = {"learning_rate": 3e-3 * 32 * 0.5, "batch_size": 32, "momentum": 0.5}
    bad = {"learning_rate": 1e-3, "batch_size": 32, "momentum": 0.5}
    fresh = [settings_row(SGD, p, hump, rng, 0.003, number=99, repeat=i) for p in (near, bad) for i in range(4)]
    table_of = with_stages([*rows, *fresh], {len(rows) + i: ("choose", "report")[i % 2] for i in range(8)})
    found = recommend_settings(SPEC, SGD, table_of)
    assert found.params == near
    assert found.confirmed is not None
    assert found.confirmed.pairs == 2
    reported = [fresh[i]["gain_mean_loss_test"] for i in (1, 3)]
    gain = found.confirmed.scores["gain_mean"]
    assert gain.mean == pytest.approx(np.mean(reported))
    assert gain.sd == pytest.approx(np.std(reported, ddof=1) / math.sqrt(2))
    free = recommend_settings(SPEC, SGD, table_of, batch_size=64)
    assert free.confirmed is None
    # confirmed settings serve both goals
    for settings, said in ((found, False), (free, True)):
        assert ("not the best model" in str(replace(settings, objective="gain_mean"))) == said
    assert found.record()["confirmed"]["pairs"] == 2


def test_one_fit_serves_several_batch_sizes(rows: list[Any]) -> None:
    model = fit_model(SPEC, SGD, table(rows), [])
    for size in (16, 64):
        found = model.recommend({"batch_size": size})
        assert found.params == recommend(SGD, rows, batch_size=size).params
