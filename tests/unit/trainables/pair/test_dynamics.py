"""Noise schedules, antithetic pairs and unequal children in whole trials."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from tests.support.small_trials import digits_spec
from trainables.measurement import monitor
from trainables.pair.dynamics import describe_dynamics
from trainables.pair.run import run_pair
from trainables.runtime import Runtime
from trainables.tasks.batches import epoch_batches
from trainables.training.checkpointing import Keeper
from trainables.training.legs import child_leg

QUIET = Runtime(measure=0)
RISING = {"kind": "linear", "start": 1, "end": 4}


def test_a_schedule_stands_in_the_row_and_in_the_history() -> None:
    spec = digits_spec(batch_size=32, noise_schedule=RISING, warmup=0.0, decay=0.0, epochs=4)
    row = run_pair(spec, QUIET)
    ends = row.result.schedule_start, row.result.schedule_end
    assert ends == (pytest.approx(0.4, abs=0.05), pytest.approx(1.6, abs=0.05))
    noises = [h.noise_paper for h in row.history if h.member == "a"]
    assert noises == sorted(noises)
    assert noises[-1] == pytest.approx(ends[1] * row.result.noises["paper"])
    assert run_pair(replace(spec, noise_schedule={}), QUIET).result.schedule_start is None


@pytest.mark.parametrize("learning_rate", [0.03, 0.05, 0.07, 0.11, 0.13])
def test_the_ends_of_a_schedule_of_the_learning_rate_keep_the_digits_of_stored_rows(learning_rate: float) -> None:
    spec = digits_spec(batch_size=48, learning_rate=learning_rate, noise_schedule=RISING, epochs=4)
    leg = child_leg(spec, 1000)
    columns = describe_dynamics(spec, leg)
    assert columns["schedule_start"] == leg.rate(leg.stable[0]) / learning_rate
    assert columns["schedule_end"] == leg.rate(leg.stable[-1]) / learning_rate


def test_the_dose_of_equal_batches_takes_one_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[object] = []

    def note(rates: list[float], batch_size: object, *_: object) -> float:
        sizes.append(batch_size)
        return float(len(rates))

    monkeypatch.setattr(monitor, "dose", note)
    row = run_pair(digits_spec(batch_size=48), Runtime(measure=1)).result
    assert sizes == [48, 48]
    assert row.noises["dose"] == row.steps


def test_a_schedule_by_the_batch_size_keeps_examples_and_mean_noise() -> None:
    spec = digits_spec(batch_size=32, warmup=0.0, decay=0.0, epochs=4, merges=("linear",))
    rising, falling = ({"kind": "linear", "start": a, "end": b, "by": "batch_size"} for a, b in ((1, 4), (4, 1)))
    up, down = (run_pair(replace(spec, noise_schedule=s), Runtime(measure=2)) for s in (rising, falling))
    for output, sign in ((up, 1), (down, -1)):
        row = output.result
        assert row.outcome == "ok"
        assert row.noises["paper"] == pytest.approx(0.05 / 32 / 0.1)
        own = [h for h in output.history if h.member == "a"]
        assert [h.epoch for h in own] == [1, 2, 3, 4]
        assert row.steps == own[-1].step != 88
        assert all(h.noise_paper == pytest.approx(h.learning_rate / h.batch_size / 0.1) for h in own)
        noises, sizes = [h.noise_paper for h in own], [h.batch_size for h in own]
        assert noises == sorted(noises)[::sign]
        assert sizes == sorted(sizes)[::-sign]
        ratio = row.schedule_end / row.schedule_start
        assert ratio == pytest.approx(4.0**sign, rel=0.15)
        assert noises[-1] == pytest.approx(row.schedule_end * row.noises["paper"])
        assert row.noises["dose"] > 0
    plain = run_pair(spec, QUIET)
    assert {h.batch_size for h in plain.history} == {None}


def test_rungs_of_batches_that_grow_keep_the_noise() -> None:
    schedule = {"kind": "linear", "start": 4, "end": 1, "by": "batch_size"}
    spec = digits_spec(batch_size=32, noise_schedule=schedule, epochs=4, merges=("linear",))
    with_rungs, without = run_pair(spec, Runtime(measure=0, rungs=2)), run_pair(spec, QUIET)
    assert [r.rung for r in with_rungs.rungs] == [1, 2]
    assert with_rungs.result.scores == without.result.scores
    assert with_rungs.rungs[0].epoch <= with_rungs.rungs[1].epoch <= 4


def test_antithetic_children_take_complementary_halves() -> None:
    spec = digits_spec(batch_size=32, pairing="antithetic", augmentation="none")
    from trainables.datasets.load import load

    data = load("digits", {}, QUIET, torch.float32)

    def epoch(half: int | None) -> list[torch.Tensor]:
        order = Generator().manual_seed(1)
        return [x for x, _ in epoch_batches(data, spec, order, Generator(), half=half)]

    plain, first, second = epoch(None), epoch(0), epoch(1)
    pairs = len(plain) // 2
    for i in range(pairs):
        assert torch.equal(first[i], plain[2 * i])
        assert torch.equal(second[i], plain[2 * i + 1])
        assert torch.equal(first[pairs + i], second[i])
        assert torch.equal(second[pairs + i], first[i])
    assert len(first) == len(second) == len(plain)


def test_antithetic_children_differ_and_are_a_function_of_the_spec() -> None:
    spec = digits_spec(batch_size=32, pairing="antithetic")
    one, again, other = (run_pair(s, QUIET).result for s in (spec, spec, replace(spec, pairing="independent")))
    assert one.scores == again.scores
    assert one.distance > 0.01
    assert one.distance != other.distance


def test_unequal_children_train_with_their_own_settings() -> None:
    spec = digits_spec(batch_size=32, learning_rate=0.02, child_b={"learning_rate": 0.04, "batch_size": 16}, decay=0.0)
    output = run_pair(spec, QUIET)
    assert output.result.child_noise_ratio == pytest.approx(4.0)
    last = {h.member: h for h in output.history}
    assert (last["a"].learning_rate, last["b"].learning_rate) == (0.02, 0.04)
    assert last["b"].noise_paper == pytest.approx(4 * last["a"].noise_paper)
    assert last["b"].step == 2 * last["a"].step + 1  # 720 images: 22 and 45 steps
    equal = run_pair(replace(spec, child_b={"learning_rate": 0.02}), QUIET).result
    assert equal.child_noise_ratio == 1.0
    assert math.isfinite(equal.scores["merged_loss_test"] or math.nan)


def test_windows_add_rows_and_leave_the_other_numbers_as_they_are() -> None:
    spec = digits_spec(batch_size=32, epochs=2, learning_rate=0.1, merges=("linear",), decay=0.0)
    wide = replace(spec, window={"size": [4, 12], "spacing": 2})
    plain, output = run_pair(spec, QUIET), run_pair(replace(wide, seed=spec.seed), QUIET)
    rows = {(r.window, r.method, r.coefficient): r for r in output.merges}
    assert len(rows) == len(output.merges) == 3 * len(plain.merges)
    assert {r.window for r in plain.merges} == {None}
    last = rows[None, "linear", 0.5]
    assert last.loss_test == output.result.scores["merged_loss_test"]
    # without a decay the mean of many weights beats the last ones, alone and merged
    assert rows[12, "linear", 0.0].loss_val < rows[None, "linear", 0.0].loss_val
    best = min(output.merges, key=lambda r: r.loss_val)
    chosen = output.result
    assert (chosen.chosen_window, chosen.chosen_merge, chosen.chosen_coefficient) == (
        best.window, best.method, best.coefficient,
    )  # fmt: skip
    assert chosen.scores["chosen_loss_test"] == best.loss_test


def test_the_weights_of_a_windows_merge_score_what_the_row_says() -> None:
    from trainables.pair.setup import prepare
    from trainables.tasks.evaluation import score_weights

    window = {"size": 10, "spacing": 4}
    spec = digits_spec(batch_size=16, epochs=2, learning_rate=0.2, window=window, decay=0.0, merges=("linear",))
    output = run_pair(spec, QUIET)
    task = prepare(spec, QUIET, with_base=False).tasks[0]
    assert output.weights is not None
    assert output.result.chosen_window == 10
    found = score_weights(task.model, output.weights, *task.data.scored("test"))
    assert found.loss == pytest.approx(output.result.scores["chosen_loss_test"], rel=1e-6)


def test_moving_averages_are_scored_as_windows_are() -> None:
    spec = digits_spec(batch_size=32, epochs=2, learning_rate=0.1, merges=("linear",), decay=0.0)
    output = run_pair(replace(spec, window={"size": 12, "spacing": 2, "kind": "ema"}), QUIET)
    rows = {(r.window, r.coefficient): r for r in output.merges}
    assert {w for w, _ in rows} == {None, 12}
    assert rows[12, 0.0].loss_val < rows[None, 0.0].loss_val
    with pytest.raises(ValueError, match=r"window\.kind must be one of mean, ema, got 'swa'"):
        replace(spec, window={"size": 12, "kind": "swa"})


BRANCH = {"protocol": "branch", "branch_step": 12, "base": {"steps": 0}, "batch_size": 32, "steps": 8}


def test_a_trunk_has_its_own_settings_and_the_children_theirs() -> None:
    from trainables.pair.setup import prepare
    from trainables.training.base import trunk

    spec = digits_spec(**BRANCH, learning_rate=0.02)
    own = replace(spec, trunk={"learning_rate": 0.08, "batch_size": 16})
    lab = prepare(own, QUIET)
    grown = trunk(own, lab.tasks[0], QUIET)
    wanted = trunk(replace(spec, learning_rate=0.08, batch_size=16), lab.tasks[0], QUIET)
    assert all(torch.equal(grown.weights[k], v) for k, v in wanted.weights.items())
    output, plain = run_pair(own, QUIET), run_pair(spec, QUIET)
    assert (output.result.trunk_noise_ratio, plain.result.trunk_noise_ratio) == (pytest.approx(8.0), 1.0)
    assert output.result.noises["paper"] == plain.result.noises["paper"]
    assert [h.learning_rate for h in output.history] == [h.learning_rate for h in plain.history]
    assert output.result.scores["merged_loss_test"] != plain.result.scores["merged_loss_test"]
    relaxed = 1e-3 * (0.02 * 8 + 0.08 * 12) / (1 - 0.9)
    assert output.result.wd_relaxation == pytest.approx(relaxed)


def test_trials_share_a_trunk_of_its_own_settings() -> None:
    spec = digits_spec(**BRANCH)
    own = replace(spec, trunk={"learning_rate": 0.08, "batch_size": 16})
    assert own.trunk_digest == replace(own, learning_rate=0.3).trunk_digest == replace(own, batch_size=64).trunk_digest
    assert own.trunk_digest == replace(spec, learning_rate=0.08, batch_size=16).trunk_digest
    assert own.trunk_digest != replace(own, momentum=0.5).trunk_digest
    assert spec.trunk_digest != replace(spec, learning_rate=0.3).trunk_digest
    assert len({own.digest, spec.digest, replace(own, learning_rate=0.3).digest}) == 3


@pytest.mark.parametrize(
    "fields", [{"noise_schedule": RISING}, {"pairing": "antithetic"}, {"child_b": {"learning_rate": 0.03}}]
)
def test_a_resume_gives_the_same_trial(fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = digits_spec(batch_size=32, epochs=3, **fields)
    whole = run_pair(spec, QUIET)
    real, written = Keeper.write, []

    def write(self: Keeper, state: Any) -> None:
        real(self, state)
        written.append(1)
        if len(written) == 5:
            raise KeyboardInterrupt

    runtime = replace(QUIET, checkpoints=str(tmp_path), checkpoint_steps=9)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run_pair(spec, runtime)
    resumed = run_pair(spec, runtime)
    assert resumed.result.scores == whole.result.scores
    assert resumed.history == whole.history
