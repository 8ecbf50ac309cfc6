"""Children that train in other processes give the numbers of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.children_apart import Here, apart, numbers
from tests.support.small_trials import digits_spec
from trainables.measurement.monitor import Watch
from trainables.pair.children import Children
from trainables.pair.processes import Follower, distribute
from trainables.pair.run import run_pair
from trainables.pair.rungs import Rungs
from trainables.pair.setup import prepare
from trainables.result import Outcome
from trainables.runtime import Runtime, Stop
from trainables.training import servo
from trainables.training.legs import child_leg
from trainables.training.servo import Steering


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"members": 3, "merges": ("linear", "uniform_soup"), "window": {"size": 3, "spacing": 2}},
        {"optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.0, "merges": ("linear", "fisher_adam")},
        {"protocol": "branch", "branch_step": 12, "augmentation": "crop_flip+mixup"},
        {"protocol": "scratch", "merges": ("linear",)},
        {"noise_schedule": {"kind": "cosine", "end": 4, "by": "batch_size"}, "pair_kind": "split_data", "epochs": 2},
        {"servo": {"every": 8}, "epochs": 3},
        {"pair_kind": "two_task", "dataset_b": "digits", "dataset_b_options": {"label_noise": 0.2}},
    ],
    ids=str,
)  # fmt: skip
def test_apart_or_one_after_the_other_is_the_same_bit_for_bit(changes: dict[str, Any]) -> None:
    spec, runtime = digits_spec(**changes), Runtime(measure=2)
    alone, (together, others) = run_pair(spec, runtime), apart(spec, runtime)
    assert alone.result.outcome == Outcome.OK, alone.result.outcome_detail
    assert all(peer.calls == ["advance"] for peer in others)
    assert numbers(together) == numbers(alone)
    assert (together.merges, together.history) == (alone.merges, alone.history)
    assert together.weights is not None
    assert alone.weights is not None
    assert all(bool((together.weights[k] == v).all()) for k, v in alone.weights.items())


def test_epochs_of_other_processes_are_reported() -> None:
    told: list[Any] = []
    apart(digits_spec(epochs=2), Runtime(measure=0), told.append)
    assert sorted((r["member"], r["epoch"]) for r in told) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_a_checkpoint_of_another_process_is_not_the_leading_ones(tmp_path: Path) -> None:
    spec = digits_spec(protocol="branch", branch_step=12, steps=4)
    runtime = Runtime(measure=0, checkpoints=str(tmp_path), checkpoint_steps=4)
    kept: list[Any] = []
    follower = Follower(spec, runtime, 1, kept.append)
    assert [Path(r["checkpoint"]).name for r in kept] == [f"{spec.digest}.trunk.ckpt"] * 2
    assert not any("checkpoint" in r for r in follower.advance(None).reports)


def test_rungs_look_at_children_of_other_processes() -> None:
    spec, runtime = digits_spec(epochs=4), Runtime(measure=0, rungs=2)
    alone, (together, others) = run_pair(spec, runtime), apart(spec, runtime)
    assert others[0].calls == ["advance", "anneal", "advance", "anneal", "advance"]
    rows = [(r.rung, r.step, r.merged_loss_val) for r in together.rungs]
    assert rows == [(r.rung, r.step, r.merged_loss_val) for r in alone.rungs]
    assert len(rows) == 2
    assert numbers(together) == numbers(alone)


def test_a_trial_is_stopped_at_a_rung_wherever_its_children_are() -> None:
    def stop(record: Any) -> None:
        if "rung" in record:
            raise Stop("hopeless")

    spec, runtime = digits_spec(epochs=4), Runtime(measure=0, rungs=2)
    output, others = apart(spec, runtime, stop)
    assert (output.result.outcome, others[0].calls) == (Outcome.PRUNED, ["advance", "anneal"])
    assert {h.member for h in output.history} == {"a", "b"}


def test_the_servo_of_a_child_in_training_elsewhere_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servo, "DIVERGING", 0.0)
    spec, runtime = digits_spec(epochs=4, servo={"every": 8}), Runtime(measure=0, rungs=2)
    lab, seen = prepare(spec, runtime), list[Steering]()
    legs = [child_leg(s, d.examples) for s, d in zip(spec.child_specs(), lab.data, strict=True)]
    watch = Watch(spec.child_specs(), lab.children, lab.data, legs, 0, lab.clock.phase)
    children = Children([spec], lab, watch, Rungs([spec], lab, 2), lambda _: None)
    children.open()
    children.courses = distribute(children, [[], [Here(spec, runtime, 1)]])
    children.train(lambda _: seen.append(children.current_children()[1].steering))
    assert seen[1].off is not None
    assert seen[1] == children.current_children()[1].steering


def test_a_child_that_diverges_elsewhere_is_known() -> None:
    spec, runtime = digits_spec(learning_rate=1e4, augmentation="none", augmentation_strength=0.0), Runtime(measure=0)
    alone, (together, _) = run_pair(spec, runtime), apart(spec, runtime)
    assert together.result.outcome == Outcome.DIVERGED
    assert numbers(together) == numbers(alone)


def test_a_stack_does_not_train_apart() -> None:
    spec = digits_spec(stack=2)
    with pytest.raises(ValueError, match=r"stack must be 1 if children train in separate processes, got 2"):
        run_pair(spec, Runtime(measure=0), peers=[[], [Here(digits_spec(), Runtime(measure=0), 1)]])
