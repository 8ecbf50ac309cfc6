"""What the server and the process of a sweep say to each other: files that outlive both, and a lock that tells life.

The lock is taken by the server, handed to the process and freed by the kernel when that dies; so a sweep's process can
be told from a dead one by any later server, and no sweep is started twice.
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
    """Why a sweep is to end.

    Attributes:
        kind: `stop` (what runs is finished), `cancel` (killed) or `server` (interrupted, to be gone on with).
        cause: The sentence for people.
        time: Seconds since 1970.
    """

    kind: str
    cause: str
    time: float


@dataclass(frozen=True)
class Outcome:
    """How a sweep's process ended.

    Attributes:
        state: Name of the state that follows.
        reason: The sentence for people.
    """

    state: str
    reason: str


@dataclass(frozen=True)
class Control:
    """The control folder of one sweep, on the server's machine."""

    folder: Path
    ENTRY: ClassVar[str] = "entry"
    """File with the sweep's row of the list, from which a lost list is made anew."""

    # -- the process --------------------------------------------------------------------------------------------------

    def start(
        self, task: Mapping[str, Any], spec: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes] | None:
        """Start the sweep's process.

        Args:
            task: What it does, with `attempt`; see `runner`.
            spec: The sweep as YAML.
            env: Its environment; None is the server's.

        Returns:
            Its process; None where one lives already.
        """
        self._make()
        lock = self._locked()
        if lock is None:
            return None
        try:
            for name in ("halt", "outcome", "begun"):
                (self.folder / name).unlink(missing_ok=True)
            os.ftruncate(lock, 0)  # the process id of an earlier one
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

    def _locked(self, kind: int = fcntl.LOCK_EX) -> int | None:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock

    def enter(self, lock: int) -> None:
        """Say in the lock, which this process got from the server, who it is."""
        os.set_inheritable(lock, False)  # it tells that this process lives, not one that it started
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    @property
    def alive(self) -> bool:
        """Whether the sweep's process lives."""
        if not (self.folder / "lock").exists():
            return False
        lock = self._locked(fcntl.LOCK_SH)  # two that look at once see no process in each other
        if lock is None:
            return True
        os.close(lock)
        return False

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to the sweep's process, or to its whole process group, if it lives."""
        if not self.alive:
            return
        text = (self.folder / "lock").read_text().strip()
        if text.isdigit():
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(int(text), number)

    # -- what is said -------------------------------------------------------------------------------------------------

    def halt(self, kind: str, cause: str, attempt: int) -> None:
        """Ask the process of an attempt to end; a stop can become a cancel, nothing else changes what was asked first.

        It may never have been started, by a server that was killed: then there may be no folder yet.
        """
        before = self.halted(attempt)
        if before is None or (kind == "cancel" and before.kind != "cancel"):
            self._make()
            said = {"kind": kind, "cause": cause, "time": time.time(), "attempt": attempt}
            self._write("halt", json.dumps(said))

    def halted(self, attempt: int) -> Halt | None:
        """Return what the process of an attempt was asked to do."""
        found = self._read("halt")
        return Halt(**found) if found and found.pop("attempt") == attempt else None

    def begin(self) -> None:
        """Say that trials are started."""
        self._write("begun", "{}")

    @property
    def begun(self) -> bool:
        """Whether the process came so far that trials are started."""
        return (self.folder / "begun").exists()

    def end(self, outcome: Outcome, attempt: int) -> None:
        """Say how the process ended."""
        self._write("outcome", json.dumps({"state": outcome.state, "reason": outcome.reason, "attempt": attempt}))

    def outcome(self, attempt: int) -> Outcome | None:
        """Return how a process ended; None where it died without a word, or has not ended."""
        found = self._read("outcome")
        if not found or found.pop("attempt") != attempt:
            return None
        return Outcome(**found)

    @property
    def task(self) -> dict[str, Any]:
        """What the process does."""
        return self._read("task") or {}

    @property
    def last_words(self) -> str:
        """The last line that the process printed."""
        try:
            with (self.folder / "log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except FileNotFoundError:
            return ""
        return lines[-1] if lines else ""

    def keep(self, row: Mapping[str, Any]) -> None:
        """Keep the sweep's row of the list."""
        self._make()
        self._write(self.ENTRY, json.dumps(row))

    @property
    def kept(self) -> dict[str, Any] | None:
        """The sweep's row; None where an earlier version kept none."""
        return self._read(self.ENTRY)

    def _make(self) -> None:
        # never the state folder itself: where that was removed, nobody would read what is said in a new one
        self.folder.parent.mkdir(exist_ok=True, mode=0o700)
        self.folder.mkdir(exist_ok=True, mode=0o700)

    def _write(self, name: str, text: str) -> None:
        write_atomic(self.folder / name, text)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None
