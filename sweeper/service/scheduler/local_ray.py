"""One Ray on this machine for all sweeps of a service: the first sweep starts it, and later servers reuse it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from sweeper.errors import SpecError
from sweeper.runner.ray_tune import own_ray
from sweeper.runner.ray_tune.placement import cpus
from trainables.io.atomic import write_atomic

START_SECONDS, POLL_SECONDS, END_SECONDS = 90.0, 0.2, 15.0
SILENT_LOOKS, SILENT_SECONDS = 3, 30.0


class LocalRay:
    """A Ray head of this machine.

    Args:
        folder: Folder for its note, log and token.
        used: Returns whether a sweep runs on it; if so, it is not replaced while its process lives.
    """

    def __init__(self, folder: Path, used: Callable[[], bool]) -> None:
        self.file, self.log, self.token = folder / "ray.json", folder / "ray.log", folder / "ray.token"
        self._used = used
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._silent, self._silent_since = 0, math.inf  # consecutive checks without an answer
        self._child: subprocess.Popen[bytes] | None = None  # if this server started it

    def address(self) -> str:
        """Return its address, `HOST:PORT`; start it if none runs.

        Raises:
            SpecError: It does not start or answer, or other users could use it, or `close` was called.
        """
        with self._lock:
            if self._closed.is_set():
                raise SpecError("the service is stopping")
            return self._find_running() or self._start()

    def environment(self) -> dict[str, str]:
        """Return the environment for a process that joins it."""
        return own_ray.environment(self.token)

    def _read_note(self) -> dict[str, Any]:
        try:
            return json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}

    def _write_note(self, note: Mapping[str, Any]) -> None:
        write_atomic(self.file, json.dumps(note))

    def _process(self) -> psutil.Process | None:
        note = self._read_note()
        try:
            process = psutil.Process(note["pid"])
            # process ids are reused: the start time must match, too
            same = abs(process.create_time() - note["created"]) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (KeyError, psutil.Error):
            return None

    def _find_running(self) -> str | None:
        if self._process() is None:
            return None
        note = self._read_note()
        address = note["address"]
        if not note.get("closed"):
            # an earlier version started it, or a server that was killed before its check
            if self._used():
                raise SpecError(
                    f"an earlier version started the Ray at {address}, and other users can use it: a new Ray starts "
                    "when the sweeps on it have finished"
                )
            self._end()
            return None
        host, _, port = address.rpartition(":")
        with suppress(OSError):
            socket.create_connection((host, int(port)), timeout=2.0).close()
            self._silent, self._silent_since = 0, math.inf
            return address
        # a loaded machine may be slow for a moment, which must not cost running sweeps their Ray
        now = time.monotonic()
        self._silent, self._silent_since = self._silent + 1, min(self._silent_since, now)
        if self._silent < SILENT_LOOKS or now - self._silent_since < SILENT_SECONDS or self._used():
            raise SpecError(f"the Ray of this machine runs but does not answer at {address}; see {self.log}")
        self._end()
        return None

    def _start(self) -> str:
        self._silent, self._silent_since = 0, math.inf
        self._reap()
        self._remove_files()
        try:
            folder = str(own_ray.make_folder())
            try:
                return self._run(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)  # every further try makes a new folder
                raise
        except OSError as error:
            raise SpecError(f"Ray did not start on this machine: {error}") from None

    def _run(self, folder: str) -> str:
        port = _free_port()
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--num-cpus={cpus()}",
            "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--no-monitor",
            "--disable-usage-stats", f"--temp-dir={folder}/ray",  # Ray opens this folder to all, not its parent
        ]  # fmt: skip
        own_ray.users_token()
        own_ray.write_token(self.token)
        hook = f"{own_ray.without_client_server.__module__}.{own_ray.without_client_server.__name__}"
        with self.log.open("wb") as log:
            self._child = process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**self.environment(), "RAY_USAGE_STATS_ENABLED": "0", "RAY_START_HOOK": hook},
            )  # fmt: skip
        head = psutil.Process(process.pid)
        address = f"127.0.0.1:{port}"
        note = {"pid": head.pid, "created": head.create_time(), "address": address, "folder": folder}
        self._write_note(note)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._child = None
                with suppress(ProcessLookupError):  # its children
                    os.killpg(process.pid, signal.SIGKILL)
                raise SpecError(f"Ray did not start on this machine: {self._last_line()}")
            if "Ray runtime started" in self.log.read_text(errors="replace"):
                try:
                    own_ray.check_closed(address, [head])
                except SpecError:
                    self._end()
                    raise
                self._write_note({**note, "closed": True})
                return address
            if self._closed.wait(POLL_SECONDS):
                raise SpecError("the service is stopping")  # `close` ends the starting Ray
        self._end()
        raise SpecError(f"Ray did not start on this machine within {START_SECONDS:g} s; see {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "its log is empty"

    def close(self) -> None:
        """End it, if it runs; `address` no longer starts one."""
        self._closed.set()
        with self._lock:
            self._end()

    def _end(self) -> None:
        process = self._process()
        if process is None:
            self._reap()
            self._remove_files()
            return
        family = [process, *process.children(recursive=True)]
        with suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=END_SECONDS)
        for survivor in alive:
            with suppress(psutil.Error):
                survivor.kill()
        psutil.wait_procs(alive, timeout=END_SECONDS)
        self._reap()
        self._remove_files()

    def _remove_files(self) -> None:
        if folder := self._read_note().get("folder"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.file, self.token):
            file.unlink(missing_ok=True)

    def _reap(self) -> None:
        if self._child and self._child.poll() is not None:
            self._child = None


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
