"""Rungs: a look at a trial on its way changes nothing of it, and may end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.support.courses import finetune, make_courses
from tests.support.small_trials import digits_spec, random_data, same
from trainables.merging.methods import MERGES
from trainables.models.seeding import Stream, seed_generators
from trainables.pair.run import run_pair, run_pairs
from trainables.pair.rungs import ANNEAL_SHARE, anneal_leg
from trainables.pair.setup import prepare
from trainables.result import NEVER_WINS, Outcome, PairOutput
from trainables.runtime import Runtime, Stop
from trainables.spec import PairSpec
from trainables.tasks.batches import epoch_batches
from trainables.tasks.evaluation import logits_of, score
from trainables.training import servo
from trainables.training.legs import Leg
from trainables.training.loop import Seeds
from trainables.training.schedules import SCHEDULES, rung_steps

SPEC = digits_spec(epochs=4, batch_size=64)
LOOKS = Runtime(rungs=3, measure=0)
CHANGING = ("seconds", "device_seconds", "started", "step_seconds")


def reports(spec: PairSpec, runtime: Runtime = LOOKS, stop_at: int = 0) -> tuple[list[Any], PairOutput]:
    seen: list[Any] = []

    def report(record: Mapping[str, object]) -> None:
        seen.append(record)
        if stop_at and record.get("rung") == stop_at:
            raise Stop("hopeless")

    return seen, run_pair(spec, runtime, report)


# -- where the rungs are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "per_epoch", "rungs", "wanted"),
    [
        (88, 11, 3, [22, 44, 66]),
        (80, 10, 3, [20, 40, 60]),
        (30, 10, 3, [8, 15, 22]),  # fewer epochs than stretches: fixed fractions
        (50, 10, 1, [20]),
        (2, 10, 3, [1]),
        (1, 10, 3, []),
        (100, 10, 0, []),
    ],
)
def test_rungs_are_even_and_at_ends_of_epochs(steps: int, per_epoch: int, rungs: int, wanted: list[int]) -> None:
    assert sorted(set(rung_steps(steps, per_epoch, rungs))) == wanted
    assert len(rung_steps(steps, per_epoch, rungs)) == len(wanted)


def test_the_shortened_anneal_is_the_schedules_decay_and_pays_its_share() -> None:
    spec = digits_spec(learning_rate=0.3, warmup=0.1, decay=0.2)
    leg = Leg(400, lambda t: 0.3 * SCHEDULES["wsd"](t, 400, 0.1, 0.2), range(39, 320))
    anneal = anneal_leg(spec, leg, 200, 3)
    assert anneal.steps == round(ANNEAL_SHARE * 400 / 3)
    assert [anneal.rate(t) for t in range(anneal.steps)] == pytest.approx(
        [0.3 * (1 - (t / anneal.steps) ** 0.5) for t in range(anneal.steps)]
    )
    assert anneal_leg(spec, leg, 40, 3).steps == 8  # the trial's decay of so many steps is shorter
    assert anneal_leg(spec, leg, 330, 3).steps == 0  # the decay has begun
    assert anneal_leg(replace(spec, schedule="constant"), leg, 200, 3).steps == 0
    assert anneal_leg(replace(spec, decay=0.0), leg, 200, 3).steps == 0


# -- they change nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.0},
        {"optimizer": "lion", "learning_rate": 1e-4, "momentum": 0.0},
        {"clip_norm": 0.5, "augmentation": "shift+mixup"},
        {"model_options": {"norm": "batch"}, "schedule": "constant"},
        {"protocol": "branch", "branch_step": 11, "steps": 44},
        {"members": 3, "merges": ("linear", "uniform_soup")},
        {"pair_kind": "split_data", "schedule": "cosine"},
        {"pair_kind": "two_task", "dataset_b": "digits", "dataset_b_options": {"label_noise": 0.2}},
        {"steps": 30},
        {"stack": 2, "batch_size": 32},
    ],
    ids=str,
)
def test_a_trial_that_ends_has_the_same_numbers_with_and_without_rungs(changes: dict[str, Any]) -> None:
    spec = replace(SPEC, **changes)
    plain, (seen, looked) = run_pair(spec, Runtime(measure=0)), reports(spec)
    assert same(plain.result, looked.result, CHANGING)
    assert (plain.merges, plain.history) == (looked.merges, looked.history)
    assert plain.weights is not None
    assert looked.weights is not None
    assert all(torch.equal(v, looked.weights[k]) for k, v in plain.weights.items())
    rungs = [r for r in seen if "rung" in r]
    assert [r["rung"] for r in rungs] == [1, 2, 3]
    assert plain.rungs == ()
    assert [(r.rung, r.epoch) for r in looked.rungs] == [(r["rung"], r["epoch"]) for r in rungs]
    if spec.stack == 1:
        assert [r.merged_loss_val for r in looked.rungs] == [r["merged_loss_val"] for r in rungs]
    assert {r.steps for r in looked.rungs} == {looked.result.steps}


@pytest.mark.parametrize("stack", [1, 2])
def test_courses_take_turns_without_a_trace(stack: int) -> None:
    data, seeds = random_data(64), [Seeds(2 * i, 2 * i + 1) for i in range(2)]
    spec = PairSpec(
        "random", "any", learning_rate=0.05, batch_size=16, momentum=0.9, weight_decay=1e-3, dtype="float64",
        epochs=3, augmentation="shift", augmentation_strength=0.7, stack=stack,
    )  # fmt: skip
    # dropout draws from the global generators
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 10)).double()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    plain = finetune(spec, model, start, data, seeds)
    found = make_courses(spec, model, start, data, seeds)
    for until in (3, 4, 7, 8, 12):
        for course in found:
            course.advance(until)
            assert course.done == until
        if until < 12:
            for course in found:
                course.anneal(Leg(2, lambda step: 0.01), seeds[: len(course.training.seeds)])
    children = [c for course in found for c in course.children]
    for one, other in zip(plain, children, strict=True):
        assert one.history == other.history
        assert all(torch.equal(one.weights[k], other.weights[k]) for k in one.weights)


def test_a_stream_continues_at_its_position() -> None:
    with seed_generators(3):
        whole = torch.rand(6)
    stream = Stream(3)
    before = torch.random.get_rng_state()
    parts = []
    for _ in range(3):
        with stream.enter():
            parts.append(torch.rand(2))
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_rung_is_the_merge_of_annealed_copies() -> None:
    data, spec = random_data(64), PairSpec("random", "any", 0.05, 16, momentum=0.0, dtype="float64", epochs=2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    (course,) = make_courses(spec, model, start, data, [Seeds(0, 1)])
    course.advance(4)
    here = course.anneal(Leg(0, lambda step: 0.0), [])[0]
    there = course.anneal(Leg(1, lambda step: 0.5), [Seeds(5, 6)])[0]
    streams = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
    x, y = next(iter(epoch_batches(data, spec, *streams)))
    model.load_state_dict(here)
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(there[name], here[name] - 0.5 * p.grad)


def test_without_a_decay_the_rung_scores_the_merge_of_the_children_as_they_are() -> None:
    spec = digits_spec(epochs=4, batch_size=64, schedule="constant")
    seen, _ = reports(spec, replace(LOOKS, rungs=1))
    rung = next(r for r in seen if "rung" in r)
    assert (rung["step"], rung["epoch"]) == (22, 2)
    task = prepare(spec, Runtime()).tasks[0]
    seeds = [Seeds(spec.stream(f"{m}/order"), spec.stream(f"{m}/augment")) for m in "ab"]
    pair = []
    for course in make_courses(spec, task.model, task.base, task.data, seeds):
        course.advance(22)
        pair += course.anneal(Leg(0, lambda step: 0.0), [])
    x, y = task.data.scored("val")
    found = score(logits_of(task.model, MERGES["linear"](task.base, pair, 0.5), x), y)
    assert (rung["merged_loss_val"], rung["merged_accuracy_val"]) == (found.loss, found.accuracy)


# -- they may end it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pair", "stack", "two_task"])
def test_a_stopped_trial_is_pruned_with_its_history_so_far(kind: str) -> None:
    changes = {"stack": 2, "batch_size": 32} if kind == "stack" else {}
    changes |= {"pair_kind": "two_task", "dataset_b": "digits"} if kind == "two_task" else {}
    spec = replace(SPEC, **changes)
    seen, output = reports(spec, stop_at=2)
    row = output.result
    assert (row.outcome, row.outcome_detail) == (Outcome.PRUNED, "hopeless")
    assert row.outcome in NEVER_WINS
    assert row.pruned_step == row.steps // 2 if row.steps else False
    assert row.step_seconds is not None
    assert (row.scores, output.merges, output.weights) == ({}, (), None)
    assert [r.rung for r in output.rungs] == [1, 2]
    _, whole = reports(spec)
    assert output.history == tuple(h for h in whole.history if h.step <= (row.pruned_step or 0))
    assert {h.member for h in output.history} == {"a", "b"}
    assert all("epoch" in r for r in seen)
    assert max(r.get("rung", 0) for r in seen) == 2


def test_a_stopped_trial_tells_what_its_servo_did_and_no_course_that_it_did_not_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servo, "DIVERGING", 0.0)  # any loss is near divergence, once there is one to compare with
    spec = replace(SPEC, noise_schedule={"kind": "linear", "start": 2, "end": 1}, servo={"every": 8})
    whole, row = run_pair(spec, LOOKS).result, reports(spec, stop_at=3)[1].result
    assert row.outcome == Outcome.PRUNED
    assert row.servo_off_step == whole.servo_off_step is not None
    assert row.servo_off_step < (row.pruned_step or 0)
    assert row.schedule_start == whole.schedule_start is not None
    assert (row.schedule_end, row.schedule_mean) == (None, None)
    assert None not in (whole.schedule_end, whole.schedule_mean)


def test_a_stack_reports_its_mean_and_ends_as_one() -> None:
    spec = replace(SPEC, stack=2, batch_size=32)
    seen: list[Any] = []

    def report(record: Mapping[str, object]) -> None:
        if "rung" in record:
            seen.append(record)
            raise Stop("hopeless")

    outputs = run_pairs(spec.stack_mates(), LOOKS, report)
    assert [o.result.outcome for o in outputs] == [Outcome.PRUNED] * 2
    losses = [o.rungs[0].merged_loss_val or 0.0 for o in outputs]
    assert losses[0] != losses[1]
    assert [r["merged_loss_val"] for r in seen] == [pytest.approx(sum(losses) / 2)]
    assert sum(o.rungs[0].device_seconds for o in outputs) == pytest.approx(seen[0]["device_seconds"])


def test_a_child_that_diverged_before_the_stop_says_so() -> None:
    seen, output = reports(digits_spec(learning_rate=1e6, epochs=4, batch_size=64, weight_decay=10.0), stop_at=1)
    assert output.result.outcome == Outcome.DIVERGED
    assert output.result.outcome_detail.startswith("child A diverged by step ")
    assert not any("rung" in r for r in seen)  # both had: the trial was over
