"""What the tests of clusters look at from outside: drivers, run folders, processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

Driver = Callable[..., subprocess.Popen[str]]


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    """Wait until something holds while a driver runs."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def parts(run: Path) -> int:
    """Count finished trials of a run folder on this machine."""
    return len(list((run / "trials").glob("*.parquet")))


def children_processes(name: str, parent: int | None = None) -> list[int]:
    """Return the ids of the processes under `parent`, by default this one, whose command line holds a name."""
    mine = psutil.Process(parent or os.getpid()).children(recursive=True)
    return [p.pid for p in mine if name in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
