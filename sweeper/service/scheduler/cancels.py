"""Cancels: a process is told to end before anything is written, so what fills the disk can be stopped, too."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from sweeper.client.models import State
from sweeper.errors import StorageError
from sweeper.service.db.sweeps import Catalog, Entry
from sweeper.service.logs import report_failure
from sweeper.service.scheduler.process import Control, Halt

GRACE_SECONDS = 30.0


class Cancels:
    """Knows what was cancelled, also where the disk does not take the word; under the supervisor's lock.

    Args:
        catalog: The sweeps.
        control: Sweep -> its control folder.
    """

    def __init__(self, catalog: Catalog, control: Callable[[str], Control]) -> None:
        self.catalog, self.control = catalog, control
        self._asked: dict[tuple[str, int], Halt] = {}  # of an attempt of a sweep

    def ask(self, entry: Entry, cause: str) -> Entry:
        """Tell the process of a sweep to end, then write it down.

        Raises:
            StorageError: It is told, and that cannot be written down now.
        """
        control, attempt = self.control(entry.id), entry.task.get("attempt", 0)
        if (entry.id, attempt) not in self._asked:
            self._asked[entry.id, attempt] = Halt("cancel", cause, time.time())
            control.signal(signal.SIGTERM)
        try:
            control.halt("cancel", cause, attempt)
            if entry.state != State.STOPPING:
                return self.catalog.move(entry.id, State.STOPPING, cause)
            self.catalog.change(entry.id, reason=cause)
        except (OSError, SQLAlchemyError) as error:
            report_failure("the note of a cancel", error)
            raise StorageError(f"sweep {entry.id} is told to end, but that cannot be written down now") from None
        return self.catalog.get(entry.id)

    def halted(self, entry: Entry) -> Halt | None:
        """Return what the process of a sweep was asked to do."""
        attempt = entry.task.get("attempt", 0)
        return self._asked.get((entry.id, attempt)) or self.control(entry.id).halted(attempt)

    def insist(self, entry: Entry) -> None:
        """Kill a process that was told to end some time ago."""
        halted = self.halted(entry)
        if halted and halted.kind == "cancel" and time.time() - halted.time > GRACE_SECONDS:
            self.control(entry.id).signal(signal.SIGKILL, group=True)

    def forget(self, entry: Entry) -> None:
        """Drop what is known of an attempt that ended."""
        self._asked.pop((entry.id, entry.task.get("attempt", 0)), None)
