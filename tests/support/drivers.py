"""Drivers as processes, and what tests look at from outside: their end, run folders, processes under them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from sweeper.net import is_loopback
from tests.support.waiting import PATIENCE, until

Driver = Callable[..., subprocess.Popen[str]]


def complete(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for a driver to end with an exit code, and without a traceback; returns what it printed."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in out + err
    return out, err


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds while a driver runs."""

    def holds() -> bool:
        if condition():
            return True
        assert process.poll() is None, process.communicate()
        return False

    until(holds)


def parts(run: Path) -> int:
    """Count finished trials of a run folder on this machine."""
    return len(list((run / "trials").glob("*.parquet")))


def wait_for_parts(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run folder holds that many finished trials."""
    wait_until(lambda: parts(run) >= count, process)


def children_processes(name: str, parent: int | None = None) -> list[int]:
    """Return the ids of the processes under `parent`, by default this one, whose command line holds a name."""
    mine = psutil.Process(parent or os.getpid()).children(recursive=True)
    return [p.pid for p in mine if name in " ".join(_command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def listening(parent: int) -> dict[tuple[str, int], str]:
    """Return (address, port) -> command of the sockets that a process and all processes under it listen on."""
    found: dict[tuple[str, int], str] = {}
    for process in (top := psutil.Process(parent), *top.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[socket.laddr.ip, socket.laddr.port] = " ".join(_command(process))
    return found


TOKENLESS = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
ray.get(ray.remote(lambda: print("it ran"))).remote()
"""


def check_closed(parent: int, found: dict[tuple[str, int], str]) -> Path:
    """Check that strangers cannot use the Ray under a process, by its sockets or without its token.

    Args:
        parent: The process.
        found: What `listening` found.

    Returns:
        The folder of its files, which is its owner's alone.
    """
    open_ones = {at: by for at, by in found.items() if not is_loopback(at[0])}
    assert not open_ones
    family = psutil.Process(parent).children(recursive=True)
    raylet = next(p for p in family if "--raylet_socket_name" in " ".join(_command(p)))
    variables = raylet.environ()
    token = Path(variables["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    text = token.read_text()
    assert not any(text in " ".join(_command(p)) for p in family)
    assert not any("ray.util.client.server" in " ".join(_command(p)) for p in family)
    command = " ".join(_command(raylet))
    address = command.partition("--gcs-address=")[2].split()[0]
    session = Path(command.partition("--session_dir=")[2].split()[0])
    folder = session.parents[1]
    assert folder.stat().st_mode & 0o777 == 0o700  # Ray opens its own folders to everybody
    files = (f for f in folder.rglob("*") if f.is_file() and f != token)
    assert not [f for f in files if text.encode() in f.read_bytes()]  # its logs, above all
    stranger = {k: v for k, v in variables.items() if not k.startswith("RAY_AUTH")}
    client = [sys.executable, "-c", TOKENLESS, address]
    env = {**stranger, "RAY_AUTH_MODE": "disabled"}
    with ThreadPoolExecutor(len(found)) as pool:  # a port that speaks no HTTP keeps its caller for the whole limit
        statuses = pool.map(_status, (port for _, port in found))
        done = subprocess.run(client, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
        answers = dict(zip(found, statuses, strict=True))
    assert done.returncode == 1
    assert "Authentication token is missing or incorrect" in done.stderr
    assert all(status is None or status >= 400 for status in answers.values()), (found, answers)
    return folder


def _status(port: int) -> int | None:
    """Return what a port answers to a call of Ray's agent; None if it speaks no HTTP."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as http, suppress(HTTPException, OSError):
        http.request("POST", "/get_or_create_runtime_env", b"")
        return http.getresponse().status
    return None
