"""A share of the training budget: which trials it makes, and where a sweep refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_spaces import load
from sweeper import SweepSpec
from sweeper.config.prepared import find_objective, prepare, set_defaults
from sweeper.config.trials import FEWEST_STEPS, build, measure_share, shorten
from sweeper.errors import SpecError
from sweeper.runner.preflight import check_sweep
from trainables.spec import PairSpec

TRIAL = PairSpec(dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=16)


@pytest.mark.parametrize(
    ("full", "share", "short"),
    [
        ({"epochs": 8}, 0.25, {"epochs": 2}),
        ({"epochs": 3}, 0.25, {"epochs": 1}),
        ({"steps": 600}, 0.25, {"steps": 150}),
        ({"steps": 12}, 0.25, {"steps": FEWEST_STEPS}),
        (
            {"epochs": 4, "protocol": "branch", "branch_step": 100},
            0.5,
            {"epochs": 2, "branch_step": 50},
        ),
        ({"steps": 100, "window": {"size": 4, "spacing": 8}}, 0.25, {"steps": 25, "window": {"size": 4, "spacing": 2}}),
        ({"epochs": 4, "window": {"size": 4, "spacing": "8"}}, 0.5, {"epochs": 2, "window": {"size": 4, "spacing": 4}}),
        (
            {"steps": 400, "servo": {"every": 64, "limit": 2}},
            0.25,
            {"steps": 100, "servo": {"every": 16, "limit": 2}},
        ),
        ({"steps": 400, "servo": {"every": 16}}, 0.25, {"steps": 100, "servo": {"every": 8}}),
    ],
)
def test_a_shortened_trial_keeps_all_but_its_budget(full: dict[str, Any], share: float, short: dict[str, Any]) -> None:
    whole = replace(TRIAL, **full)
    less = shorten(whole, share)
    assert less == replace(whole, **short)
    assert less.digest != whole.digest
    budget = "steps" if "steps" in full else "epochs"
    assert measure_share(less, whole) == short[budget] / full[budget]


def test_only_a_proxy_shortens() -> None:
    space = load("synthetic")
    params = {
        "learning_rate": 0.1,
        "batch_size": 16,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "augmentation_strength": 0.5,
    }
    spec = SweepSpec.checked({"space": "synthetic", "proxy": 0.5})
    assert build(spec, space, params).epochs == 8
    assert build(spec, space, params, proxy=True).epochs == 4
    assert build(SweepSpec.checked({"space": "synthetic"}), space, params, proxy=True).epochs == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "tpe"}, "proxy needs sampler noise, which compares the budgets, got tpe"),
        ({"sampler": "qmc"}, "proxy needs sampler noise, which compares the budgets, got qmc"),
        ({"map": 0}, "map is 0: give map a share, or leave proxy out"),
        ({"objective": ["gain_mean", "cost"]}, "proxy needs a single objective, got 2"),
        ({"objective": "cost"}, "proxy changes the cost of a trial"),
        ({"proxy": 1.0}, "less than 1"),
        ({"proxy": 0}, "greater than 0"),
        (
            {"parameters": {"epochs": {"values": [4, 8]}}},
            "proxy shortens epochs, and epochs is a knob: give it",
        ),
        (
            {"parameters": {"window.spacing": {"values": [4, 8]}}, "fixed": {"window.size": 2}},
            r"proxy shortens window.spacing, and window.spacing is a knob: .*--set window.spacing=VALUE",
        ),
        ({"fixed": {"epochs": 1}}, "proxy 0.25 of 1 epoch leaves nothing out, since a trial has at least 1 epoch"),
        ({"fixed": {"steps": 8}}, "proxy 0.25 of 8 steps leaves nothing out, since a trial has at least 10 steps"),
    ],
)
def test_a_proxy_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        prepare(SweepSpec.checked({"space": "synthetic", "proxy": 0.25, **values}))
    assert "\n" not in str(caught.value)


def test_a_knob_beside_the_budget_may_vary() -> None:
    sizes = {"parameters": {"window.size": {"values": [2, 4]}}, "fixed": {"window.spacing": 8}}
    sweep = prepare(SweepSpec.checked({"space": "synthetic", "proxy": 0.25, **sizes}))
    trial = build(sweep.spec, sweep.space, sweep.space.params_of(sweep.corners[0]), proxy=True)
    assert trial.window == {"size": 4, "spacing": 2}
    assert sweep.space.params_of(trial) == sweep.space.params_of(sweep.corners[0])


def test_a_rule_that_only_shortened_trials_break_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(trial: PairSpec, share: float) -> PairSpec:
        return replace(trial, epochs=0)

    monkeypatch.setattr("sweeper.config.trials.shorten", refuse)
    with pytest.raises(SpecError, match=r"at proxy 0.25 cannot run: epochs must be >= 1, got 0, or leave proxy out$"):
        prepare(SweepSpec.checked({"space": "synthetic", "proxy": 0.25}))


APART: dict[str, dict[str, Any]] = {
    "with child_b": {"child_b": {"learning_rate": 0.1}},
    "with a servo": {"servo": {"every": 16}},
    "in protocol scratch": {"protocol": "scratch", "merges": ["linear"]},
}


@pytest.mark.parametrize("reason", APART)
def test_repeats_that_cannot_train_as_one_stack_train_one_by_one(reason: str) -> None:
    params = {"learning_rate": 0.05, "batch_size": 16, "momentum": 0.9, "weight_decay": 1e-4}
    values: dict[str, Any] = {"space": "digits_cnn", "repeats": 4, "fixed": {**params, **APART[reason]}}
    sweep = prepare(SweepSpec.checked(values))
    trials = [build(sweep.spec, sweep.space, {"augmentation_strength": 0.5}, i) for i in range(4)]
    assert [t.stack for t in trials] == [1] * 4
    assert trials[0].apart == reason
    plain = prepare(SweepSpec.checked({**values, "fixed": params}))
    assert build(plain.spec, plain.space, {"augmentation_strength": 0.5}).stack == 4
    asked = set_defaults(prepare(SweepSpec.checked({**values, "stack": "on"})))
    with pytest.raises(SpecError) as caught:
        check_sweep(asked)
    assert str(caught.value) == f"stack on trains repeats as one, which trials {reason} cannot: use --stack off"
    assert check_sweep(asked.with_spec(repeats=1)).constants["examples"] == 720


def test_the_default_objective_of_tasks_is_a_loss_for_text() -> None:
    corpora = [{"name": "text", "options": {"path": p, "context": 8}} for p in ("a.txt", "b.txt")]
    text = {"pair_kind": "tasks", "datasets": corpora, "dataset": "", "dataset_options": {}}
    sweep = prepare(SweepSpec.checked({"space": "shakespeare_gpt", "fixed": text}))
    assert find_objective(sweep) == "gain_tasks"
    images = prepare(SweepSpec.checked({"space": "image_tasks"}))
    assert find_objective(images) == "chosen_normalised_accuracy"
    asked = prepare(SweepSpec.checked({"space": "image_tasks", "objective": "merged_loss"}))
    assert find_objective(asked) == "merged_loss"
