"""The Ray that `sweeper run` starts: who can reach it, and with what."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.drivers import Driver, check_closed, complete, listening, parts, wait_until

pytestmark = pytest.mark.ray


def test_others_can_use_neither_it_nor_the_processes_that_train_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_spec: Callable[..., str], driver: Driver
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # what a user may have set for a cluster
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-another-cluster")
    run, found = tmp_path / "run", dict[tuple[str, int], str]()
    spec = write_spec(workers=1, trials=5000)
    process = driver("run", spec, "--resources", "ranks_per_member=2", "--out", str(run))

    def looked() -> bool:
        time.sleep(1)  # looking is half a core's work, and the trial needs the cores
        found.update(listening(process.pid))
        return parts(run) >= 1 and any("RankProcess" in by for by in found.values())

    wait_until(looked, process)
    folder = check_closed(process.pid, found)
    process.send_signal(signal.SIGINT)
    complete(process, 130)
    assert not folder.exists()
