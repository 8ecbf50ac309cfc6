"""Drivers as processes, and what tests look at from outside: their end, run folders, processes under them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

Driver = Callable[..., subprocess.Popen[str]]


def complete(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for a driver to end with an exit code, and without a traceback; returns what it printed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in out + err
    return out, err


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 180) -> None:
    """Wait until something holds while a driver runs."""
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def parts(run: Path) -> int:
    """Count finished trials of a run folder on this machine."""
    return len(list((run / "trials").glob("*.parquet")))


def wait_for_parts(run: Path, count: int, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until the run folder holds that many finished trials."""
    wait_until(lambda: parts(run) >= count, process, seconds)


def children_processes(name: str, parent: int | None = None) -> list[int]:
    """Return the ids of the processes under `parent`, by default this one, whose command line holds a name."""
    mine = psutil.Process(parent or os.getpid()).children(recursive=True)
    return [p.pid for p in mine if name in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
