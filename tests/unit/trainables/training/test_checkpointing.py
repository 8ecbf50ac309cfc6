"""A trial that is stopped on its way goes on from its checkpoint to the same numbers, bit for bit."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.children_apart import apart, numbers
from tests.support.small_trials import digits_spec
from trainables.datasets.augmentation import augment
from trainables.datasets.cache import LostCheckpoint, drop_checkpoints
from trainables.models.registry import MODELS
from trainables.pair.run import run_pair, run_pairs
from trainables.result import Outcome, PairOutput
from trainables.runtime import Runtime, Stop
from trainables.spec import PairSpec
from trainables.training.checkpointing import EVERY_SECONDS, SHARE, Keeper


@pytest.fixture(autouse=True)
def _with_dropout(own_registries: None) -> None:
    MODELS.add("dropping", dropping)


def dropping(classes: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, classes))


class Killed(BaseException):
    """The process ends here."""


def killed_after(count: int, seen: list[str] | None = None) -> Callable[[Mapping[str, object]], None]:
    def report(record: Mapping[str, object]) -> None:
        if "checkpoint" in record:
            written.append(str(record["checkpoint"]))
            if len(written) == count:
                raise Killed

    written: list[str] = [] if seen is None else seen
    return report


def keeping(folder: Path, every: int = 3, **more: Any) -> Runtime:
    return Runtime(**{"measure": 2, "checkpoints": str(folder), "checkpoint_steps": every, **more})


def assert_same(found: PairOutput, expected: PairOutput) -> None:
    assert numbers(found) == numbers(expected)
    assert (found.merges, found.history) == (expected.merges, expected.history)
    rungs = [[replace(r, device_seconds=0.0) for r in output.rungs] for output in (found, expected)]
    assert rungs[0] == rungs[1]
    for name, value in (expected.weights or {}).items():
        assert found.weights is not None
        assert torch.equal(found.weights[name], value), name


TRIALS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-3, "momentum": 0.0, "merges": ("linear", "fisher_adam")},
    "mixing": {"augmentation": "crop_flip+mixup"},
    "randaugment": {"augmentation": "randaugment"},
    "dropout": {"model": "dropping", "augmentation": "none", "augmentation_strength": 0.0},
    "clipped": {"clip_norm": 0.5},
    "two tasks": {"pair_kind": "two_task", "dataset_b": "digits", "dataset_b_options": {"label_noise": 0.2}},
    "halves": {"pair_kind": "split_data", "epochs": 4},
    "batches": {"noise_schedule": {"kind": "linear", "end": 4, "by": "batch_size"}, "epochs": 3},
    "servo": {"servo": {"every": 8}, "batch_size": 16},
    "windows": {"window": {"size": [2, 4], "spacing": 3}},
    "moving averages": {"window": {"size": [2, 4], "spacing": 3, "kind": "ema"}},
    "three": {"members": 3, "merges": ("linear", "uniform_soup")},
}


@pytest.mark.parametrize("stopped", [2, 7])
@pytest.mark.parametrize("trial", TRIALS)
def test_a_trial_continues_from_its_checkpoint(tmp_path: Path, trial: str, stopped: int) -> None:
    spec = digits_spec(**{"batch_size": 64, "epochs": 2, **TRIALS[trial]})
    try:
        run_pair(spec, keeping(tmp_path), killed_after(stopped))
    except Killed:
        assert len(list(tmp_path.glob("*.ckpt"))) == 1
    else:
        pytest.fail("it was over before")
    seen: list[str] = []
    found = run_pair(spec, keeping(tmp_path), killed_after(1000, seen))
    whole: list[str] = []
    expected = run_pair(spec, keeping(tmp_path / "other"), killed_after(1000, whole))
    assert expected.result.outcome == Outcome.OK
    assert_same(found, expected)
    assert_same(expected, run_pair(spec, Runtime(measure=2)))
    assert len(seen) == len(whole) - stopped, "it trained again what was trained"


@pytest.mark.parametrize("stopped", [2, 5, 9])
def test_a_trunk_continues_from_its_checkpoint(tmp_path: Path, stopped: int) -> None:
    rate = 0.0501 + stopped * 1e-4  # a trunk of its own
    spec = digits_spec(protocol="branch", branch_step=12, epochs=2, batch_size=64, learning_rate=rate)
    with pytest.raises(Killed):
        run_pair(spec, keeping(tmp_path), killed_after(stopped))
    expected = run_pair(spec, Runtime(measure=2, threads=1))
    assert_same(run_pair(spec, keeping(tmp_path)), expected)


@pytest.mark.parametrize("stopped", [1, 7])
def test_rungs_that_were_taken_stay(tmp_path: Path, stopped: int) -> None:
    spec = digits_spec(epochs=4, batch_size=64)
    with pytest.raises(Killed):
        run_pair(spec, keeping(tmp_path, 10, rungs=2), killed_after(stopped))
    expected = run_pair(spec, Runtime(measure=2, rungs=2))
    assert len(expected.rungs) == 2
    assert_same(run_pair(spec, keeping(tmp_path, 10, rungs=2)), expected)


def test_a_stack_continues_from_its_checkpoint(tmp_path: Path) -> None:
    specs = digits_spec(stack=4, batch_size=64, epochs=2).stack_mates()
    with pytest.raises(Killed):
        run_pairs(specs, keeping(tmp_path), killed_after(4))
    for found, expected in zip(run_pairs(specs, keeping(tmp_path)), run_pairs(specs, Runtime(measure=2)), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("stopped", [1, 3, 8])
def test_images_before_the_checkpoint_are_not_augmented_again(
    tmp_path: Path, stopped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.tasks.batches.AUGMENT_IMAGES", 128)  # two batches of 64
    seen: list[int] = []

    def counted(policy: str, strength: float, x: torch.Tensor, *rest: Any) -> Any:
        seen.append(len(x))
        return augment(policy, strength, x, *rest)

    spec = digits_spec(batch_size=64, epochs=2, augmentation="crop_flip+mixup")
    whole = run_pair(spec, Runtime(measure=0))  # its base is held from now on
    monkeypatch.setattr("trainables.tasks.batches.augmented", counted)
    with pytest.raises(Killed):
        run_pair(spec, keeping(tmp_path, 3, measure=0), killed_after(stopped))
    assert_same(run_pair(spec, keeping(tmp_path, 3, measure=0)), whole)
    once = 2 * 64 * whole.result.steps
    assert once <= sum(seen) <= once + 128


@pytest.mark.parametrize("rung", [1, 2])
def test_a_trial_apart_that_ends_at_a_rung_right_after_its_checkpoint_is_whole(tmp_path: Path, rung: int) -> None:
    spec = digits_spec(batch_size=64, epochs=4)

    def at(rung: int, end: type[BaseException]) -> Callable[[Mapping[str, object]], None]:
        def report(record: Mapping[str, object]) -> None:
            if record.get("rung") == rung:
                raise end("it is looked at")

        return report

    with pytest.raises(Killed):
        apart(spec, keeping(tmp_path, 1000, rungs=2), at(rung, Killed))
    found, _ = apart(spec, keeping(tmp_path, 1000, rungs=2), at(rung, Stop))
    expected = run_pair(spec, Runtime(measure=2, rungs=2), at(rung, Stop))
    assert expected.result.outcome == Outcome.PRUNED
    assert {row.member for row in expected.history} == {"a", "b"}
    assert_same(found, expected)


@pytest.mark.parametrize("stopped", [1, 3])
def test_children_on_several_ranks_continue_from_their_checkpoint(tmp_path: Path, stopped: int) -> None:
    spec = digits_spec(batch_size=64, epochs=2)
    with pytest.raises(Killed):
        apart(spec, keeping(tmp_path), killed_after(stopped))
    found, others = apart(spec, keeping(tmp_path))
    assert others[0].calls[0] == "restore"
    assert_same(found, run_pair(spec, Runtime(measure=2)))


def test_what_it_took_counts(tmp_path: Path) -> None:
    spec = digits_spec(batch_size=64, epochs=2)
    with pytest.raises(Killed):
        run_pair(spec, keeping(tmp_path), killed_after(8))
    state = torch.load(next(tmp_path.glob("*.ckpt")), weights_only=True)["state"]
    found = run_pair(spec, keeping(tmp_path)).result
    assert found.started == state["started"]
    assert found.seconds["train"] > state["seconds"]["train"] > 0


SPEC = digits_spec(batch_size=64)


@pytest.mark.parametrize(
    ("spoil", "other", "why"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), {}, "cannot be read"),
        (lambda p: p.write_bytes(b"no checkpoint"), {}, "cannot be read"),
        (lambda p: torch.save({"facts": {}, "state": {}}, p), {}, "belongs to another format"),
        (lambda p: None, {"measure": 0}, "belongs to another measure"),
        (lambda p: None, {"threads": 2}, "belongs to another threads"),
    ],
)
def test_one_that_does_not_count_is_said_and_passed_over(
    tmp_path: Path, spoil: Callable[[Path], Any], other: dict[str, Any], why: str
) -> None:
    with pytest.raises(Killed):
        run_pair(SPEC, keeping(tmp_path), killed_after(2))
    spoil(next(tmp_path.glob("*.ckpt")))
    runtime = keeping(tmp_path, **other)
    with pytest.warns(LostCheckpoint, match=why):
        found = run_pair(SPEC, runtime)
    torch.set_num_threads(1)
    assert found.result.outcome == Outcome.OK


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_no_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"facts": {}, "state": Evil()}, tmp_path / f"{SPEC.digest}.ckpt")
    with pytest.warns(LostCheckpoint, match="cannot be read"):
        run_pair(SPEC, keeping(tmp_path))
    assert not Path("ran").exists()


def test_a_trial_of_seconds_writes_none_and_a_long_one_about_one_a_minute(tmp_path: Path) -> None:
    seen: list[str] = []
    run_pair(SPEC, keeping(tmp_path, checkpoint_steps=None), killed_after(1000, seen))
    assert (seen, list(tmp_path.iterdir())) == ([], [])
    now = [0.0]
    kept = Keeper(tmp_path / "x.ckpt", {}, None, clock=lambda: now[0])
    done, at = 0, []
    while done < 4000:
        steps = kept.stride or 0
        now[0] += steps * 0.5
        done += steps
        kept.report = lambda _: at.append(now[0])
        kept.note_pause(steps, dict)
    gaps = [b - a for a, b in pairwise(at)]
    assert len(gaps) > 20
    assert all(EVERY_SECONDS / 2 <= gap <= 1.1 * EVERY_SECONDS for gap in gaps)
    none = Keeper(tmp_path / "y.ckpt", {}, 0)
    assert none.stride is None
    assert none.read() is None


def test_one_that_is_slow_to_write_is_written_more_rarely(tmp_path: Path) -> None:
    now, at = [0.0], list[float]()

    def state() -> dict[str, Any]:
        at.append(now[0])
        now[0] += 30.0
        return {}

    kept = Keeper(tmp_path / "x.ckpt", {}, None, clock=lambda: now[0])
    for _ in range(400):
        steps = kept.stride or 0
        now[0] += steps * 0.5
        kept.note_pause(steps, state)
    gaps = [b - a for a, b in pairwise(at)]
    assert len(gaps) > 5
    assert all(30.0 / gap <= 2 * SHARE for gap in gaps)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_one_that_cannot_be_written_costs_nothing(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "replace", fails)
    seen: list[str] = []
    with pytest.warns(LostCheckpoint, match=rf"cannot write checkpoint .*: {os.strerror(number)}; the trial goes on"):
        found = run_pair(SPEC, keeping(tmp_path), killed_after(1000, seen))
    assert (seen, list(tmp_path.iterdir())) == ([], [])
    assert_same(found, run_pair(SPEC, Runtime(measure=2)))


def test_they_go_with_the_trial(tmp_path: Path) -> None:
    spec: PairSpec = digits_spec(protocol="branch", branch_step=12, batch_size=64, learning_rate=0.0707)
    runtime = keeping(tmp_path)
    digest = run_pair(spec, runtime).result.digest
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {f"{digest}.ckpt", f"{digest}.trunk.ckpt"}
    (tmp_path / f".{digest}.ckpt.0123").write_bytes(b"of a writer that was killed")
    drop_checkpoints(runtime, digest)
    assert list(tmp_path.iterdir()) == []
