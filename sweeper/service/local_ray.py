"""One Ray for all sweeps of a service on this machine: started by the first, found again by a later server."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil

from sweeper.resources import cpus
from sweeper.spec import SpecError

START_SECONDS, POLL_SECONDS, END_SECONDS = 90.0, 0.2, 15.0
SILENT_LOOKS, SILENT_SECONDS = 3, 30.0


class LocalRay:
    """A Ray head of this machine.

    Args:
        folder: Where to note that it runs.
        used: Returns whether a sweep runs on it: then it is not replaced while its process lives.
    """

    def __init__(self, folder: Path, used: Callable[[], bool]) -> None:
        self.file, self.log, self._used = folder / "ray.json", folder / "ray.log", used
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._silent, self._silent_since = 0, math.inf  # looks in a row at which it did not answer
        self._child: subprocess.Popen[bytes] | None = None  # where this server started it

    def address(self) -> str:
        """Return its address, `HOST:PORT`; it is started where none runs.

        Raises:
            SpecError: It does not start, or runs and does not answer; or `close` was called.
        """
        with self._lock:
            if self._closed.is_set():
                raise SpecError("the service is ending")
            return self._known() or self._started()

    def _process(self) -> psutil.Process | None:
        try:
            noted = json.loads(self.file.read_text())
            process = psutil.Process(noted["pid"])
            # a process of the same number that began at another time is another one
            same = abs(process.create_time() - noted["created"]) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, KeyError, psutil.Error):
            return None

    def _known(self) -> str | None:
        if self._process() is None:
            return None
        address = json.loads(self.file.read_text())["address"]
        host, _, port = address.rpartition(":")
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=2.0).close()
            self._silent, self._silent_since = 0, math.inf
            return address
        # a machine under load may be slow for a moment: sweeps that run on it must not lose it for that
        now = time.monotonic()
        self._silent, self._silent_since = self._silent + 1, min(self._silent_since, now)
        if self._silent < SILENT_LOOKS or now - self._silent_since < SILENT_SECONDS or self._used():
            raise SpecError(f"the Ray of this machine runs and does not answer at {address}; see {self.log}")
        self._end()
        return None

    def _started(self) -> str:
        self._silent, self._silent_since = 0, math.inf
        self._reap()
        folder = tempfile.mkdtemp(prefix="sweeper-ray-")  # sockets have short names
        try:
            return self._run(folder)
        except SpecError:
            shutil.rmtree(folder, ignore_errors=True)  # it is tried again and again
            raise

    def _run(self, folder: str) -> str:
        port = _free_port()
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--num-cpus={cpus()}",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats",
            f"--ray-client-server-port={_free_port()}", f"--temp-dir={folder}",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._child = process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            )  # fmt: skip
        noted = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        address = f"127.0.0.1:{port}"
        self.file.write_text(json.dumps({**noted, "address": address}))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._child = None
                with suppress(ProcessLookupError):  # what it had started
                    os.killpg(process.pid, signal.SIGKILL)
                raise SpecError(f"Ray did not start on this machine: {self._last_line()}")
            if "Ray runtime started" in self.log.read_text(errors="replace"):
                return address
            if self._closed.wait(POLL_SECONDS):
                raise SpecError("the service is ending")  # what is being started is ended by `close`
        self._end()
        raise SpecError(f"Ray did not start on this machine within {START_SECONDS:g} s; see {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """End it, if it runs, for good."""
        self._closed.set()
        with self._lock:
            self._end()

    def _end(self) -> None:
        process = self._process()
        if process is None:
            return
        family = [process, *process.children(recursive=True)]
        with suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=END_SECONDS)
        for one in left:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, timeout=END_SECONDS)
        self._reap()
        self.file.unlink(missing_ok=True)

    def _reap(self) -> None:
        if self._child and self._child.poll() is not None:
            self._child = None


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
