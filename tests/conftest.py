"""What all tests share: where the data is, and no skipped test where `SWEEPER_FORBID_SKIPS` is set."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# one thread per process: the machine is shared with Ray's workers, and threads are part of the numbers
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a shell starts `pytest &` with SIGINT ignored, and every process of a test would ignore it, too
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> str:
    """Folder with the real data sets, from `SWEEPER_DATA`; tests that need it are marked `data`."""
    root = os.environ.get("SWEEPER_DATA")
    if not root:
        pytest.skip("SWEEPER_DATA names no folder with data sets")
    assert Path(root).is_dir(), f"SWEEPER_DATA={root} is no folder"
    return root


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server."""
    from tests.support.postgres import binaries, running

    folder = binaries()
    if folder is None:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    with running(folder) as found:
        yield found


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command as a process group of its own; what is left of it is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def one(*command: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, text=True, start_new_session=True, env=env, **pipes))
        return started[-1]

    yield one
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def driver(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., subprocess.Popen[str]]:
    """Start `sweeper ARGS`; see `start`."""
    return lambda *args: start(sys.executable, "-m", "sweeper", *args)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    reports = reporter.stats.get("skipped", []) if reporter else []
    skipped = sum("data" not in report.keywords or bool(os.environ.get("SWEEPER_DATA")) for report in reports)
    if skipped and os.environ.get("SWEEPER_FORBID_SKIPS") == "1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\nSWEEPER_FORBID_SKIPS=1, but {skipped} tests were skipped", red=True)
