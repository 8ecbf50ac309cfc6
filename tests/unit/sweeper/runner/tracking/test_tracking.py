"""Tracking of whole sweeps: each finished trial once, errors of a tracker cost no trial, a missing package stops it."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from sweeper import SpecError, SweepSpec, run
from sweeper.cli.main import main
from sweeper.runner.status import Status
from sweeper.runner.tracking import tracking
from sweeper.runner.tracking.record import TrialRecord
from sweeper.storage.location import Place
from tests.support.inline_sweeps import altered, sweep


class FakeTracker:
    """Tracker that keeps its records, and fails from the record `broken` on."""

    broken = 1000
    records: list[TrialRecord]

    def __init__(self, place: Place) -> None: ...

    def track(self, record: TrialRecord) -> None:
        if len(type(self).records) >= type(self).broken:
            raise ConnectionError("no route to host")
        type(self).records.append(record)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    fake = type("Fake", (FakeTracker,), {"records": []})
    monkeypatch.setattr(tracking, "TRACKERS", {"tensorboard": fake})
    return fake


def test_each_trial_is_tracked_once_also_after_a_resume(tmp_path: Path, tracker: type[FakeTracker]) -> None:
    first = sweep(tmp_path / "run", trials=3, repeats=2, track="tensorboard")
    assert sorted(r.digest for r in tracker.records) == sorted(first.trials["digest"].to_pylist())
    again = sweep(tmp_path / "run", trials=5, repeats=2, track="tensorboard")
    assert sorted(r.digest for r in tracker.records) == sorted(again.trials["digest"].to_pylist())
    assert {r.group for r in tracker.records} == {"run"}


def test_a_resume_tracks_the_trials_of_a_sweep_that_was_not_tracked(tmp_path: Path, tracker: type[FakeTracker]) -> None:
    sweep(tmp_path / "run", trials=3)
    assert tracker.records == []
    results = sweep(tmp_path / "run", trials=4, track="tensorboard")
    assert {r.digest for r in tracker.records} == set(results.trials["digest"].to_pylist())
    # from the compacted table and from those of single trials
    assert all(r.curves for r in tracker.records if r.outcome == "ok")
    assert sum(r.outcome == "ok" for r in tracker.records) >= 3
    sweep(tmp_path / "run", trials=5, track="none")
    assert len(tracker.records) == 4


def test_an_error_of_a_tracker_costs_no_trial_and_is_one_warning(tmp_path: Path, tracker: type[FakeTracker]) -> None:
    tracker.broken = 2
    seen: dict[str, str] = {}

    def listen(status: Status) -> None:
        seen.update(status.warnings)

    spec = SweepSpec(space="synthetic", runner="inline", sampler="random", trials=6, out=str(tmp_path / "run"),
                     track=("tensorboard",))  # fmt: skip
    results = run(spec, listen)
    assert results.trials.num_rows == 6
    assert results.failed == 0
    warning = seen.pop("track_tensorboard")
    assert warning == (
        f"tensorboard gets no further trials: no route to host; `sweeper resume {tmp_path / 'run'} --track "
        "tensorboard` adds what is missing"
    )
    assert not [k for k in seen if k.startswith("track")]
    tracker.broken = 1000
    run(spec)
    assert {r.digest for r in tracker.records} == set(results.trials["digest"].to_pylist())
    assert len(tracker.records) == 6


def test_a_slow_tracker_ends_with_a_warning(
    tmp_path: Path, tracker: type[FakeTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(tracker, "track", lambda self, record: release.wait())
    monkeypatch.setattr(tracking, "CLOSE_SECONDS", 0.05)
    seen: dict[str, str] = {}
    spec = SweepSpec(space="synthetic", runner="inline", sampler="random", trials=2, out=str(tmp_path / "run"),
                     track=("tensorboard",))  # fmt: skip
    results = run(spec, lambda status: seen.update(status.warnings))
    release.set()
    assert results.trials.num_rows == 2
    assert "the trackers are too slow; `sweeper resume" in seen["track"]


def test_a_failed_trial_is_left_out_since_it_runs_again(
    tmp_path: Path, tracker: type[FakeTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    def fail(spec: Any, result: Any) -> Any:
        return replace(result, outcome="failed", outcome_detail="a bug", scores={})

    with monkeypatch.context() as context:
        altered(context, fail)
        sweep(tmp_path / "run", trials=2, track="tensorboard")
    assert tracker.records == []
    results = sweep(tmp_path / "run", trials=2, track="tensorboard")
    assert {r.digest for r in tracker.records} == set(results.trials["digest"].to_pylist())


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_before_the_sweep_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(tracking, "find_spec", lambda module: None if module == name else real(module))
    out = tmp_path / "run"
    assert main(["run", "synthetic", "--runner", "inline", "--trials", "2", "--out", str(out), "--track", name]) == 2
    expected = f"error: track {name} needs the package {name}: pip install 'sweeper[{name}]'\n"
    assert capsys.readouterr().err == expected
    assert not out.exists()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(SpecError, match="must be 'tensorboard', 'wandb' or 'none', got 'mlflow'"):
        SweepSpec.checked({"space": "synthetic", "track": "mlflow"})


def test_trackers_do_not_change_which_search_it_is() -> None:
    plain, tracked = SweepSpec(space="synthetic"), SweepSpec.checked({"space": "synthetic", "track": "wandb"})
    assert tracked.track == ("wandb",)
    assert plain.identity() == tracked.identity()
