"""Final results of ended sweeps: stored at the end, or later if a sweep's store was away."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from sweeper.backoff import Backoff
from sweeper.client.models import ENDED, State, SweepRecord
from sweeper.errors import AwayError, SpecError, shortage
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError
from sweeper.service.db.tables import sweeps
from sweeper.service.views.views import Views

T = TypeVar("T")
BACKOFF = Backoff(10.0, 300.0)
_log = logging.getLogger("sweeper.service")
UNREAD = "unread"
"""Key of a task: the sweep ended, but its results are not stored yet."""


class Endings:
    """Stores the results of sweeps when they end, or later.

    Args:
        catalog: The sweeps.
        views: Reads their folders.
        lock: Held while a sweep's task or the list of due reads changes.
    """

    def __init__(self, catalog: Catalog, views: Views, lock: threading.RLock) -> None:
        self.catalog, self.views, self._lock = catalog, views, lock
        self._due: dict[str, tuple[float, int]] = {}  # sweep -> time of the next read, failed reads
        self._away_until = -math.inf

    def take_up(self) -> None:
        """Schedule the reads that an earlier server left undone."""
        query = select(sweeps.c.id).where(sweeps.c.state.in_(ENDED), sweeps.c.task[UNREAD].as_boolean())
        with self.catalog.engine.connect() as connection:
            for sweep in connection.execute(query).scalars():
                self._due[sweep] = -math.inf, 0

    def read(self, entry: Entry) -> SweepRecord | None:
        """Store and return the results of a sweep; None if its folder cannot be read now."""
        return self._attempt(entry, self.views.conclude)

    def look(self, entry: Entry) -> SweepRecord | None:
        """Return the results of a sweep so far; None if its folder cannot be read now."""
        return self._attempt(entry, lambda e: self.views.reader(e, 0.0).snapshot)

    def _attempt(self, entry: Entry, do: Callable[[Entry], T]) -> T | None:
        if time.monotonic() < self._away_until:
            return None
        try:
            return do(entry)
        except UnknownSweepError:
            return None  # deleted
        except (SpecError, OSError) as error:
            if shortage(error):
                raise  # the folder exists and can be read after the shortage
            if isinstance(error, AwayError | OSError):
                # each read of an absent store takes seconds, which other sweeps must not wait for
                self._away_until = time.monotonic() + BACKOFF.first
            _log.warning("sweep %s: cannot read its folder now: %s", entry.id, error)
        except SQLAlchemyError:
            raise
        except Exception:  # an unexpected row must not keep the sweep from ending
            _log.exception("sweep %s: cannot analyse its trials", entry.id)
        return None

    def task_of(self, entry: Entry, snapshot: SweepRecord | None) -> dict[str, Any]:
        """Return the task of an ending sweep; without results it is marked, and a later read is scheduled."""
        if snapshot is not None:
            return drop_unread(entry.task)
        self._due[entry.id] = time.monotonic() + BACKOFF.first, 1
        return {**entry.task, UNREAD: True}

    def retry(self) -> None:
        """Read the sweeps that could not be read at their end."""
        for sweep, (due, failures) in list(self._due.items()):
            now = time.monotonic()
            if now < self._away_until:
                return
            if now >= due:
                self._due[sweep] = scheduled = now + BACKOFF.pause(failures + 1), failures + 1
                if self._read_late(sweep):
                    with self._lock:  # the sweep may have ended again, with a new schedule
                        if self._due[sweep] is scheduled:
                            del self._due[sweep]

    def _read_late(self, sweep: str) -> bool:
        try:
            entry = self.catalog.get(sweep)
            if not State(entry.state).ended:  # resumed: its next end stores the results
                return True
            if self.read(entry) is None:
                return False
            with self._lock:
                self.catalog.change(sweep, task=drop_unread(self.catalog.get(sweep).task))
        except UnknownSweepError:
            pass  # deleted
        return True


def drop_unread(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task without the mark that its sweep's results are not stored yet."""
    return {k: v for k, v in task.items() if k != UNREAD}
