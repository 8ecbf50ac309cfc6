"""Health: whether the database answers, the state is where it was, and there is room to write.

One thread looks, so a disk or database that hangs holds up nobody else. Who asks waits for the next look for a bounded
time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from sweeper.service.db.connections import connect, link_of
from sweeper.storage.retry import is_full, line
from trainables.io.atomic import write_atomic

EVERY_SECONDS = 1.0
ANSWER_SECONDS = 1.5
"""So long a request waits for a look."""
PROBE_SECONDS = 5.0
ROOM_BYTES, ROOM_FILES = 32 << 20, 100
"""A disk with less room counts as full: SQLite's log, control files and logs need some."""
PROBE = ".probe"
_log = logging.getLogger("sweeper.service")


class Health:
    """Looks at what a service depends on.

    Args:
        engine: Its database.
        state: Its state folder; it is noticed when that is removed or replaced.
        runs: Folder of the run folders, where it is one of this machine.
    """

    def __init__(self, engine: Engine, state: Path, runs: Path | None) -> None:
        self.engine, self.state, self._link = engine, state, link_of(engine)
        self._link.watch(state, "the service's state folder")
        self._places = [("state", state), *([("runs", runs)] if runs else [])]
        if engine.dialect.name == "sqlite" and (file := engine.url.database):
            self._places.append(("database", Path(file).absolute().parent))
        self.trouble = ""
        """What the last look found, as a sentence without a path; empty where all is well."""
        self._at = "the service"
        self._connection: Any = None
        self._probed = -PROBE_SECONDS
        self._lock, self._woken = threading.Lock(), threading.Event()
        self._waiting: list[Future[str]] = []
        self._closing, self._every = False, False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look each second."""
        self._every = True
        self._run_thread()

    def close(self) -> None:
        """End."""
        self._closing = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS)

    async def look(self, seconds: float = ANSWER_SECONDS) -> str:
        """Return what a look that begins now finds; a sentence, too, where it takes longer than some seconds."""
        asked: Future[str] = Future()
        with self._lock:
            self._waiting.append(asked)
        self._run_thread()
        self._woken.set()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), seconds)
        except TimeoutError:
            return f"{self._at} does not answer within {seconds:g} s"

    def _run_thread(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="health", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closing:
            self._woken.wait(EVERY_SECONDS if self._every else None)
            self._woken.clear()
            with self._lock:
                waiting, self._waiting = self._waiting, []
            found = self.check(probe=bool(waiting))
            if found != self.trouble:
                _log.error("readiness: %s", found or "ready again")
            self.trouble = found
            for one in waiting:
                if one.set_running_or_notify_cancel():
                    one.set_result(found)
        if self._connection is not None:
            self._connection.close()

    def check(self, probe: bool = True) -> str:
        """Return what is wrong now, as a sentence without a path; empty where all is well.

        Args:
            probe: Whether a small file is written, at most every few seconds.
        """
        self._at = "the service's disk"
        try:
            if why := self._link.lost():
                return why
            if why := self._room():
                return why
            if probe and time.monotonic() - self._probed >= PROBE_SECONDS:
                write_atomic(self.state / PROBE, os.urandom(4096), self.state / f"{PROBE}.new")
                self._probed = time.monotonic()
        except OSError as error:
            word = "is full" if is_full(error) else f"cannot be written: {line(error)}"
            return f"the disk of the service's state {word}"
        self._at = "the service's database"
        return self._asked()

    def _room(self) -> str:
        for name, path in self._places:
            try:
                found = os.statvfs(path)
            except FileNotFoundError:
                continue  # the folder of the runs is made with the first one
            room = found.f_bavail * found.f_frsize
            if room < ROOM_BYTES:
                return f"the disk of the service's {name} has {room >> 20} MB left and needs {ROOM_BYTES >> 20}"
            if found.f_files and found.f_favail < ROOM_FILES:
                return f"the disk of the service's {name} has room for {found.f_favail} files only"
        return ""

    def _asked(self) -> str:
        if self.engine.dialect.driver != "psycopg":
            return self._queried()
        import psycopg

        try:
            if self._connection is None:
                args, given = self._arguments()
                self._connection = connect(self._link, *args, check=True, autocommit=True, **given)
            self._connection.execute(b"SELECT 1")
        except psycopg.Error as error:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return f"the service's database does not answer: {line(error)}"
        return ""

    def _arguments(self) -> tuple[Sequence[Any], dict[str, Any]]:
        args, given = self.engine.dialect.create_connect_args(self.engine.url)
        return args, {k: v for k, v in given.items() if k != "context"}

    def _queried(self) -> str:
        # not by the pool: requests may have taken all of its connections
        if not (file := self.engine.url.database):
            return ""
        try:
            with closing(sqlite3.connect(f"{Path(file).absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)) as opened:
                opened.execute("SELECT value FROM service LIMIT 1").fetchall()
        except sqlite3.Error as error:
            return f"the service's database cannot be read: {line(error)}"
        return ""
