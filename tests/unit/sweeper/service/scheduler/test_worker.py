"""The process of a sweep, run in this one: the lease that a killed one left is waited out, a stop ends the wait."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sweeper.errors import SpecError
from sweeper.service.scheduler import worker
from sweeper.service.scheduler.process import Control, Outcome
from sweeper.storage import lease, run_folder
from sweeper.storage.location import Place, place_of
from sweeper.storage.tables import read_trials
from tests.support.waiting import PATIENCE

SPEC = {"space": "synthetic", "runner": "inline", "sampler": "random", "trials": 2}


@pytest.fixture(autouse=True)
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let run folders be held by leases, as in a store."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    names = {n: getattr(fcntl, n) for n in ("LOCK_EX", "LOCK_NB", "LOCK_SH", "LOCK_UN")}
    monkeypatch.setattr(run_folder, "fcntl", SimpleNamespace(flock=flock, **names))
    for name, seconds in {"STALE": 0.8, "DRIFT": 0.2, "LOOK": 0.05, "SETTLE": 0.01}.items():
        monkeypatch.setattr(lease, f"{name}_SECONDS", seconds)


def control_of(tmp_path: Path, **task: Any) -> Control:
    control = Control(tmp_path / "control")
    control.folder.mkdir()
    (control.folder / "spec.yaml").write_text(yaml.safe_dump({**SPEC, "out": str(tmp_path / "run")}))
    (control.folder / "task").write_text(json.dumps({"kind": "run", "attempt": 1, **task}))
    return control


def hold(run: Path) -> None:
    held = {"owner": "killed", "host": "here", "pid": 7, "time": time.time()}
    place_of(run).write(lease.LEASE_FILE, json.dumps(held).encode())


def while_waiting(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act in the main thread once the worker says that it waits for a lease."""

    def waited(place: Place, say: Callable[[str], None], stop: Callable[[], str]) -> str:
        return lease.await_free(place, lambda line: (say(line), act())[0], stop)

    monkeypatch.setattr(worker, "await_free", waited)


def ran(control: Control) -> Outcome:
    lock = os.open(control.folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        assert worker.main(str(control.folder), str(lock)) == 0
    finally:
        os.close(lock)
    outcome = control.outcome(control.task["attempt"])
    assert outcome is not None
    return outcome


def test_the_lease_of_a_killed_process_is_waited_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = control_of(tmp_path)
    hold(tmp_path / "run")
    with pytest.raises(SpecError, match=r"is free within 0.8 s"), run_folder.locked(tmp_path / "run"):
        pass  # people are told at once
    hold(tmp_path / "run")
    assert ran(control) == Outcome("done", "all trials have run")
    (wait,) = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert wait.startswith(f"process 7 on here holds {tmp_path / 'run'}; if it was killed, the folder is free within")
    # a folder that is free is used at once: nobody asks whether to stop
    assert lease.await_free(place_of(tmp_path / "run"), print, lambda: "stop") == ""


def test_a_driver_that_lives_keeps_its_folder(tmp_path: Path) -> None:
    control, done = control_of(tmp_path), threading.Event()

    def renew() -> None:
        while not done.wait(0.05):
            hold(tmp_path / "run")

    hold(tmp_path / "run")
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        outcome = ran(control)
    finally:
        done.set()
        thread.join()
    assert outcome.state == "failed"
    assert "another process is running the sweep" in outcome.reason


@pytest.mark.parametrize("finished", [True, False])
def test_a_worker_that_waits_for_a_lease_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    control = control_of(tmp_path)
    if finished:
        ran(control)
    monkeypatch.setattr(lease, "STALE_SECONDS", PATIENCE)
    hold(tmp_path / "run")
    while_waiting(monkeypatch, lambda: control.halt("stop", "stopped by ann", 1))
    assert ran(control) == Outcome("done" if finished else "failed", "stopped by ann")
    if finished:
        assert read_trials(tmp_path / "run").num_rows == 2


def test_who_waits_for_a_lease_is_interrupted_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = control_of(tmp_path)
    monkeypatch.setattr(lease, "STALE_SECONDS", PATIENCE)
    hold(tmp_path / "run")

    def cancel() -> None:
        control.halt("cancel", "cancelled by ann", 1)
        os.kill(os.getpid(), signal.SIGTERM)

    while_waiting(monkeypatch, cancel)  # a signal sent at any other time could end the process of the tests
    assert ran(control) == Outcome("cancelled", "cancelled by ann")


@pytest.mark.parametrize(
    ("kind", "state", "reason"),
    [
        ("stop", "done", "asked; process ended before the last trials finished"),
        ("cancel", "cancelled", "asked"),
        ("server", "interrupted", "asked"),
    ],
)
def test_a_signal_ends_a_sweep_as_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, state: str, reason: str
) -> None:
    control = control_of(tmp_path)
    control.halt(kind, "asked", 1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "_run", interrupted)
    assert ran(control) == Outcome(state, reason)
