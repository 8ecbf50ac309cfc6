"""The last look at sweeps that ended: what they found is stored, also of those whose store was away at that moment."""

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
from sweeper.client.models import ENDED, State
from sweeper.errors import AwayError, SpecError, shortage
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError
from sweeper.service.db.tables import sweeps
from sweeper.service.views.reader import Found
from sweeper.service.views.views import Views

T = TypeVar("T")
BACKOFF = Backoff(10.0, 300.0)
_log = logging.getLogger("sweeper.service")
UNREAD = "unread"
"""Key of a task: the sweep ended, and what it found is still to be stored."""


class Endings:
    """Stores what sweeps found when they end, or later.

    Args:
        catalog: The sweeps.
        views: Reads their folders.
        lock: Held while a sweep's task or what is due changes.
    """

    def __init__(self, catalog: Catalog, views: Views, lock: threading.RLock) -> None:
        self.catalog, self.views, self._lock = catalog, views, lock
        self._due: dict[str, tuple[float, int]] = {}  # sweep -> when it is read again, and the reads that failed
        self._away_until = -math.inf

    def take_up(self) -> None:
        """Go on with what an earlier server did not come to."""
        query = select(sweeps.c.id).where(sweeps.c.state.in_(ENDED), sweeps.c.task[UNREAD].as_boolean())
        with self.catalog.engine.connect() as connection:
            for sweep in connection.execute(query).scalars():
                self._due[sweep] = -math.inf, 0

    def read(self, entry: Entry) -> Found | None:
        """Store what a sweep found, and return it; None where its folder cannot be read now."""
        return self._reached(entry, self.views.conclude)

    def look(self, entry: Entry) -> Found | None:
        """Return what a sweep has found by now; None where its folder cannot be read now."""
        return self._reached(entry, lambda e: self.views.reader(e, 0.0).found)

    def _reached(self, entry: Entry, do: Callable[[Entry], T]) -> T | None:
        if time.monotonic() < self._away_until:
            return None
        try:
            return do(entry)
        except UnknownSweepError:
            return None  # it was deleted
        except (SpecError, OSError) as error:
            if shortage(error):
                raise  # its folder is there: what it holds is known when this has passed
            if isinstance(error, AwayError | OSError):
                # each look at a store that is away takes seconds: other sweeps do not wait for them, too
                self._away_until = time.monotonic() + BACKOFF.first
            _log.warning("sweep %s: its folder cannot be read now: %s", entry.id, error)
        except SQLAlchemyError:
            raise
        except Exception:  # a row that nobody can judge must not keep the sweep from its end
            _log.exception("sweep %s cannot be judged", entry.id)
        return None

    def noted(self, entry: Entry, found: Found | None) -> dict[str, Any]:
        """Return the task of a sweep that ends, with a note where it is to be read again."""
        if found is not None:
            return settled(entry.task)
        self._due[entry.id] = time.monotonic() + BACKOFF.first, 1
        return {**entry.task, UNREAD: True}

    def retry(self) -> None:
        """Read those again that could not be read when they ended."""
        for sweep, (due, failures) in list(self._due.items()):
            now = time.monotonic()
            if now < self._away_until:
                return
            if now >= due:
                self._due[sweep] = mine = now + BACKOFF.pause(failures + 1), failures + 1
                if self._done(sweep):
                    with self._lock:  # it may have ended once more
                        if self._due[sweep] is mine:
                            del self._due[sweep]

    def _done(self, sweep: str) -> bool:
        try:
            entry = self.catalog.get(sweep)
            if not State(entry.state).ended:  # it goes on, and ends once more
                return True
            if self.read(entry) is None:
                return False
            with self._lock:
                self.catalog.change(sweep, task=settled(self.catalog.get(sweep).task))
        except UnknownSweepError:
            pass  # it was deleted
        return True


def settled(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task without the note that its sweep is to be read again."""
    return {k: v for k, v in task.items() if k != UNREAD}
