"""Cancels: the process gets its signal before anything is written, so a sweep that fills the disk can be cancelled."""

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
    """The cancelled sweeps, also those whose cancel could not be written to disk; used under the supervisor's lock.

    Args:
        catalog: The sweeps.
        control: Sweep -> its control folder.
    """

    def __init__(self, catalog: Catalog, control: Callable[[str], Control]) -> None:
        self.catalog, self.control = catalog, control
        self._halts: dict[tuple[str, int], Halt] = {}  # (sweep, attempt) -> its halt

    def request(self, entry: Entry, cause: str) -> Entry:
        """Signal the process of a sweep to end, then store the cancel.

        Raises:
            StorageError: The process got the signal, but the cancel cannot be stored now.
        """
        control, attempt = self.control(entry.id), entry.task.get("attempt", 0)
        if (entry.id, attempt) not in self._halts:
            self._halts[entry.id, attempt] = Halt("cancel", cause, time.time())
            control.signal(signal.SIGTERM)
        try:
            control.halt("cancel", cause, attempt)
            if entry.state != State.STOPPING:
                return self.catalog.move(entry.id, State.STOPPING, cause)
            self.catalog.change(entry.id, reason=cause)
        except (OSError, SQLAlchemyError) as error:
            report_failure("the record of a cancel", error)
            raise StorageError(f"the process of sweep {entry.id} is ending, but the cancel cannot be stored") from None
        return self.catalog.get(entry.id)

    def find_halt(self, entry: Entry) -> Halt | None:
        """Return the request to end the process of a sweep, or None."""
        attempt = entry.task.get("attempt", 0)
        return self._halts.get((entry.id, attempt)) or self.control(entry.id).read_halt(attempt)

    def insist(self, entry: Entry) -> None:
        """Kill a cancelled process that has not ended within `GRACE_SECONDS`."""
        halt = self.find_halt(entry)
        if halt and halt.kind == "cancel" and time.time() - halt.time > GRACE_SECONDS:
            self.control(entry.id).signal(signal.SIGKILL, group=True)

    def forget(self, entry: Entry) -> None:
        """Forget the cancel of an attempt that ended."""
        self._halts.pop((entry.id, entry.task.get("attempt", 0)), None)
