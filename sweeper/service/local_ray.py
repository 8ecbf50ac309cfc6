"""One Ray for all sweeps of a service on this machine: started by the first, found again by a later server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil

from sweeper.resources import cpus
from sweeper.spec import SpecError

START_SECONDS, POLL_SECONDS, END_SECONDS = 90.0, 0.2, 15.0


class LocalRay:
    """A Ray head of this machine.

    Args:
        folder: Where to note that it runs.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.log = folder / "ray.json", folder / "ray.log"
        self._lock = threading.Lock()

    def address(self) -> str:
        """Return its address, `HOST:PORT`; it is started where none runs.

        Raises:
            SpecError: It does not start.
        """
        with self._lock:
            return self._known() or self._started()

    def _process(self) -> psutil.Process | None:
        try:
            noted = json.loads(self.file.read_text())
            process = psutil.Process(noted["pid"])
            # a process of the same number that began at another time is another one
            return process if abs(process.create_time() - noted["created"]) < 1.0 else None
        except (OSError, ValueError, KeyError, psutil.Error):
            return None

    def _known(self) -> str | None:
        if self._process() is None:
            return None
        address = json.loads(self.file.read_text())["address"]
        host, _, port = address.rpartition(":")
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=2.0).close()
            return address
        self.close()
        return None

    def _started(self) -> str:
        port = _free_port()
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--num-cpus={cpus()}",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats",
            f"--ray-client-server-port={_free_port()}",
            # sockets have short names
            f"--temp-dir={tempfile.mkdtemp(prefix='sweeper-ray-')}",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            )  # fmt: skip
        noted = {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}
        address = f"127.0.0.1:{port}"
        self.file.write_text(json.dumps({**noted, "address": address}))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SpecError(f"Ray did not start on this machine: {self._last_line()}")
            if "Ray runtime started" in self.log.read_text(errors="replace"):
                return address
            time.sleep(POLL_SECONDS)
        self.close()
        raise SpecError(f"Ray did not start on this machine within {START_SECONDS:g} s; see {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self) -> None:
        """End it, if it runs."""
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
        self.file.unlink(missing_ok=True)


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
