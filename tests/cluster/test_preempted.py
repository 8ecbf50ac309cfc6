"""A trial that is preempted in the middle of its training goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sweeper.storage.tables import read_trials
from tests.support.drivers import Driver, children_processes, complete, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.soak]

SPEC = """\
space: digits_cnn
sampler: random
runner: {runner}
workers: 1
trials: 1
seed: 5
checkpoint_steps: 25
fixed: {{epochs: 12, batch_size: 16, learning_rate: 0.02, momentum: 0.5}}
"""


def test_a_trial_outlives_its_process_and_its_driver(tmp_path: Path, driver: Driver) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC.format(runner="ray"))
    (tmp_path / "alone.yaml").write_text(SPEC.format(runner="inline"))
    run, alone = tmp_path / "run", tmp_path / "alone"
    process = driver("run", str(tmp_path / "spec.yaml"), "--out", str(run))

    def written() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (run / "checkpoints").glob("*.ckpt")}

    wait_until(lambda: bool(written()), process)
    for pid in children_processes("ray::ImplicitFunc", process.pid):
        os.kill(pid, signal.SIGKILL)
    before = written()
    wait_until(lambda: written() != before, process)  # the second attempt went on, and came further
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert written(), "the trial was over"
    again = driver("resume", str(run))
    complete(again)
    whole = driver("run", str(tmp_path / "alone.yaml"), "--out", str(alone))
    complete(whole)
    (found,), (expected,) = read_trials(run).to_pylist(), read_trials(alone).to_pylist()
    times = {n for n in found if "seconds" in n or n in ("started", "finished")}
    assert {k: v for k, v in found.items() if k not in times} == {k: v for k, v in expected.items() if k not in times}
    # it counts from its first start on, and nothing is left behind
    assert found["started"] < expected["started"]
    assert written() == {}
