"""Sweeps whose driver, or whose Ray, is killed or stopped at any moment lose nothing and repeat nothing."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

import sweeper
from sweeper import SweepSpec
from sweeper.runner.ray_tune import tuner
from sweeper.storage.tables import read_trials
from tests.support.drivers import Driver, complete, wait_for_parts
from tests.support.waiting import PATIENCE
from trainables.pair.synthetic import SECONDS

pytestmark = pytest.mark.cluster
SMALL_TUNERS = "import os, signal, sys, sweeper.runner.ray_tune.tuner as c; c.WAVE, c.ROUNDS = {wave}, 1"
MAIN = "from sweeper.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def drive(start: Driver) -> Driver:
    """Start a driver in Tuners of few trials; what is left of it, and of its Ray, is killed at the end."""

    def one(*args: str, wave: int = 1000, before: str = "", seconds: float = 0.0) -> "subprocess.Popen[str]":
        code = "; ".join((SMALL_TUNERS.format(wave=wave), before or "pass", MAIN))
        return start(sys.executable, "-c", code, *args, env={**os.environ, SECONDS: str(seconds)})

    return one


def sweep(run: Path, trials: int = 100, sampler: str = "random") -> list[str]:
    return ["run", "synthetic", "--trials", str(trials), "--sampler", sampler, "--workers", "2", "--out", str(run)]


def rows(run: Path) -> dict[str, dict[str, Any]]:
    """Return digest -> row, all columns but those of time."""
    found = read_trials(run).to_pylist()
    assert Counter(r["digest"] for r in found).most_common(1)[0][1] == 1
    return {r["digest"]: {k: v for k, v in r.items() if "seconds" not in k and k != "started"} for r in found}


def rays(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [p for p in psutil.Process(process.pid).children(recursive=True) if p.is_running()]


@pytest.mark.soak
def test_a_driver_killed_at_random_moments_loses_and_repeats_nothing(tmp_path: Path, drive: Driver) -> None:
    sweeper.run(
        SweepSpec(space="synthetic", sampler="random", trials=100, runner="inline", out=str(tmp_path / "whole"))
    )
    run, moments = tmp_path / "killed", random.Random(6)
    marks = sorted(moments.sample(range(2, 95), 5))
    orphans: list[psutil.Process] = []
    command, kept = sweep(run), dict[str, int]()
    for mark in marks:
        process = drive(*command, wave=40, seconds=0.02)
        wait_for_parts(run, mark, process)
        time.sleep(moments.uniform(0, 0.2))
        orphans += rays(process)
        process.kill()
        process.wait()
        there = {p.name: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}
        assert kept.items() <= there.items()
        kept = there
        command = ["resume", str(run)]
    complete(drive(*command, wave=40))
    assert rows(run) == rows(tmp_path / "whole")
    # Ray's own processes end with their driver
    _, alive = psutil.wait_procs(orphans, timeout=PATIENCE)
    assert not alive


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_ray_that_dies_ends_the_driver_with_a_sentence(tmp_path: Path, drive: Driver, part: str) -> None:
    run = tmp_path / "run"
    process = drive(*sweep(run, trials=60), seconds=0.5)
    wait_for_parts(run, 2, process)
    victim = next(p for p in psutil.Process(process.pid).children() if p.name() == part)
    victim.kill()
    _, err = complete(process, 1)
    assert f"error: Ray died ({part}" in err
    assert "finished trials are kept, `sweeper resume` continues" in err
    assert 2 <= len(rows(run)) < 60
    if part == "raylet":
        complete(drive("resume", str(run), "--runner", "inline"))
        assert len(rows(run)) == 60


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("a, c.connect = c.connect, lambda *s: (os.kill(os.getpid(), signal.SIGINT), a(*s))[1]", signal.SIGINT),
        ("a, c._remove_artifacts = c._remove_artifacts, lambda n: (a(n), os.kill(os.getpid(), signal.SIGTERM))", None),
    ],
    ids=["while Ray starts", "between Tuners"],
)
def test_a_signal_stops_cleanly(tmp_path: Path, drive: Driver, where: str, number: int | None) -> None:
    run = tmp_path / "run"
    _, err = complete(drive(*sweep(run, trials=12), wave=4, before=where), 130)
    assert f"`sweeper resume {run}` continues" in err
    assert read_trials(run).num_rows == (0 if number else 4)
    if number:
        complete(drive("resume", str(run), "--runner", "inline"))
        assert len(rows(run)) == 12


def test_a_signal_in_the_second_tuner_stops_cleanly(tmp_path: Path, drive: Driver) -> None:
    run = tmp_path / "run"
    process = drive(*sweep(run, trials=200), wave=5, seconds=0.2)
    wait_for_parts(run, 7, process)
    process.send_signal(signal.SIGINT)
    complete(process, 130)
    assert 7 <= len(rows(run)) < 200


def test_inline_and_consecutive_tuners_give_the_same_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "WAVE", 6)
    monkeypatch.setattr(tuner, "ROUNDS", 1)
    waves: list[int] = []
    real = tuner._run_wave

    def counted(session: Any, size: int, *more: Any) -> bool:
        waves.append(size)
        return real(session, size, *more)

    monkeypatch.setattr(tuner, "_run_wave", counted)
    for runner in ("ray", "inline"):
        spec = SweepSpec(
            space="synthetic", sampler="noise", trials=15, workers=1, out=str(tmp_path / runner), runner=runner
        )
        sweeper.run(spec)
    assert waves == [5, 5, 5]
    assert rows(tmp_path / "ray") == rows(tmp_path / "inline")


def test_failures_count_over_tuners_and_a_resume_takes_another_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "WAVE", 5)
    monkeypatch.setattr(tuner, "ROUNDS", 1)
    spec = SweepSpec(space="synthetic", sampler="random", trials=20, workers=2, max_failed=6, out=str(tmp_path))
    monkeypatch.setenv(SECONDS, "no number")  # every trial raises
    found = sweeper.run(spec)
    assert 6 <= found.failed <= 8
    assert "configurations failed, the last one" in found.reason
    monkeypatch.setenv(SECONDS, "0")
    found = sweeper.run(spec.model_copy(update={"max_failed": 1}))
    assert (found.failed, found.trials.num_rows, found.reason) == (0, 20, "")
