"""Tests that start processes: a local Ray of their own each, and drivers that are stopped or killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SPEC = """\
space: digits_cnn
sampler: {sampler}
runner: {runner}
workers: {workers}
trials: {trials}
seed: 5
fixed: {{epochs: 1}}
parameters: {{batch_size: {{values: [16, 32]}}}}
"""


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[..., str]:
    """Write a small sweep of real pairs and return its path."""

    def write(sampler: str = "random", runner: str = "ray", workers: int = 2, trials: int = 6) -> str:
        path = tmp_path / f"{sampler}-{runner}-{trials}.yaml"
        path.write_text(SPEC.format(sampler=sampler, runner=runner, workers=workers, trials=trials))
        return str(path)

    return write


@pytest.fixture
def driver() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `sweeper ARGS` as a process group of its own; what is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sweeper", *args]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, start_new_session=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_parts(run: Path, count: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until the run folder holds that many finished trials."""
    deadline = time.monotonic() + seconds
    while len(list((run / "trials").glob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no trial in time"
        time.sleep(0.02)
