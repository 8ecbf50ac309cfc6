"""Communication of the server with the process of a sweep: files that outlive both, and a lock that shows life.

The server takes the lock and hands it to the process; the kernel frees it when the process dies. So any later server
can tell whether a sweep's process lives, and never starts a sweep twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainables.io.atomic import write_atomic

LOG_BYTES = 4000


@dataclass(frozen=True)
class Halt:
    """A request to end a sweep's process.

    Attributes:
        kind: `stop` (running trials finish), `cancel` (they are killed) or `server` (interrupted, continued later).
        cause: The message for users.
        time: Seconds since 1970.
    """

    kind: str
    cause: str
    time: float


@dataclass(frozen=True)
class Outcome:
    """How a sweep's process ended.

    Attributes:
        state: Next state of the sweep.
        reason: The message for users.
    """

    state: str
    reason: str


@dataclass(frozen=True)
class Control:
    """The control folder of one sweep, on the server's machine."""

    folder: Path
    ENTRY: ClassVar[str] = "entry"
    """File with the sweep's row, from which a lost database is rebuilt."""

    # -- the process --------------------------------------------------------------------------------------------------

    def start(
        self, task: Mapping[str, Any], spec: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes] | None:
        """Start the sweep's process.

        Args:
            task: What it does, with `attempt`; see `worker`.
            spec: The sweep as YAML.
            env: Its environment; None is the server's.

        Returns:
            The process; None if the sweep already has a live one.
        """
        self._create_folder()
        lock = self._take_lock()
        if lock is None:
            return None
        try:
            for name in ("halt", "outcome", "begun"):
                (self.folder / name).unlink(missing_ok=True)
            os.ftruncate(lock, 0)  # drop the id of an earlier process
            self._write("spec.yaml", spec)
            self._write("task", json.dumps(dict(task)))
            with (self.folder / "log").open("ab") as log:
                return subprocess.Popen(
                    [sys.executable, "-m", "sweeper.service.scheduler.worker", str(self.folder), str(lock)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[lock], start_new_session=True,
                    env=env,
                )  # fmt: skip
        finally:
            os.close(lock)

    def _take_lock(self, kind: int = fcntl.LOCK_EX) -> int | None:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock

    def claim(self, lock: int) -> None:
        """Write the id of this process into the lock that it got from the server."""
        os.set_inheritable(lock, False)  # the lock must end with this process, not with its children
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    @property
    def alive(self) -> bool:
        """Whether the sweep's process lives."""
        if not (self.folder / "lock").exists():
            return False
        lock = self._take_lock(fcntl.LOCK_SH)  # shared, so simultaneous checks do not see each other
        if lock is None:
            return True
        os.close(lock)
        return False

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to the sweep's process, or to its process group, if it lives."""
        if not self.alive:
            return
        text = (self.folder / "lock").read_text().strip()
        if text.isdigit():
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(int(text), number)

    # -- messages -----------------------------------------------------------------------------------------------------

    def halt(self, kind: str, cause: str, attempt: int) -> None:
        """Ask the process of an attempt to end. The first request counts, but a cancel replaces a stop.

        If a killed server never started the process, the folder may not exist yet.
        """
        before = self.read_halt(attempt)
        if before is None or (kind == "cancel" and before.kind != "cancel"):
            self._create_folder()
            message = {"kind": kind, "cause": cause, "time": time.time(), "attempt": attempt}
            self._write("halt", json.dumps(message))

    def read_halt(self, attempt: int) -> Halt | None:
        """Return the request to end the process of an attempt, or None."""
        message = self._read("halt")
        return Halt(**message) if message and message.pop("attempt") == attempt else None

    def begin(self) -> None:
        """Record that trials are starting."""
        self._write("begun", "{}")

    @property
    def begun(self) -> bool:
        """Whether the process has started trials."""
        return (self.folder / "begun").exists()

    def end(self, outcome: Outcome, attempt: int) -> None:
        """Record how the process ended."""
        self._write("outcome", json.dumps({"state": outcome.state, "reason": outcome.reason, "attempt": attempt}))

    def outcome(self, attempt: int) -> Outcome | None:
        """Return how a process ended; None if it died without a record, or has not ended."""
        message = self._read("outcome")
        if not message or message.pop("attempt") != attempt:
            return None
        return Outcome(**message)

    @property
    def task(self) -> dict[str, Any]:
        """The task of the process."""
        return self._read("task") or {}

    @property
    def last_line(self) -> str:
        """The last line of the process's log."""
        try:
            with (self.folder / "log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""

    def store_row(self, row: Mapping[str, Any]) -> None:
        """Store the sweep's row."""
        self._create_folder()
        self._write(self.ENTRY, json.dumps(row))

    @property
    def row(self) -> dict[str, Any] | None:
        """The stored row of the sweep; None if an earlier version stored none."""
        return self._read(self.ENTRY)

    def _create_folder(self) -> None:
        # never the state folder: if it was removed, nobody would read messages in a new one
        self.folder.parent.mkdir(exist_ok=True, mode=0o700)
        self.folder.mkdir(exist_ok=True, mode=0o700)

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.folder / name, text)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None
