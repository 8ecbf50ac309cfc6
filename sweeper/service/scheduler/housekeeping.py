"""Housekeeping: periodic work of a server that does not depend on its sweeps."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from sweeper.client.models import Quota
from sweeper.service.db.audit import Audit
from sweeper.service.db.ownership import Ownership, TakenError
from sweeper.service.db.sweeps import Catalog
from sweeper.service.logs import COUNTED, REPEATS
from sweeper.service.policy.quotas import WINDOW_SECONDS, stop_over_quota
from sweeper.service.scheduler.rebuild import store_missing_rows

TICK_SECONDS = 5.0
PRUNE_SECONDS = 3600.0
LOG_BYTES, KEPT_BYTES = 4 << 20, 1 << 20
_log = logging.getLogger("sweeper.service")


class Housekeeping:
    """Renews the lock on the database, stops sweeps over quota, and prunes logs and tables.

    Args:
        catalog: The sweeps.
        ownership: The right to run them.
        state: Folder of the control folders.
        quota: User -> quota.
        stop: Called with the id of a sweep to stop, and the cause.
        audit_seconds: Age at which entries of the audit log are deleted.
        lost: Called when another server has taken the database.
    """

    def __init__(
        self,
        catalog: Catalog,
        ownership: Ownership,
        state: Path,
        quota: Callable[[str], Quota],
        stop: Callable[[str, str], object],
        audit_seconds: float,
        lost: Callable[[], None] = lambda: os._exit(2),  # as if killed: the sweeps belong to the other server now
    ) -> None:
        self.catalog, self.ownership, self.state = catalog, ownership, state
        self.quota, self.stop, self.audit_seconds, self.lost = quota, stop, audit_seconds, lost
        self._audit = Audit(catalog.engine, catalog.clock)
        self._pruned = -math.inf
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Start the periodic work."""
        self._thread.start()

    def close(self) -> None:
        """Stop the periodic work."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def tick(self) -> None:
        """Do the work that is due.

        Raises:
            TakenError: Another server has taken the database.
            SQLAlchemyError: The database does not answer.
        """
        for line in REPEATS.overdue():
            _log.warning("%s", line, extra={COUNTED: True})
        self.ownership.renew()
        stop_over_quota(self.catalog, self.quota, self.stop)
        if time.monotonic() - self._pruned >= PRUNE_SECONDS:
            self.prune()
            self._pruned = time.monotonic()

    def prune(self) -> None:
        """Delete old audit entries and usage that no quota counts now, and shorten long logs."""
        now = self.catalog.clock()
        self._audit.prune(now - self.audit_seconds)
        self.catalog.prune_usage(now - WINDOW_SECONDS)
        store_missing_rows(self.state, self.catalog)
        for folder in (self.state / "sweeps").glob("*"):
            if (folder / "log").is_file():
                trim(folder / "log", LOG_BYTES, KEPT_BYTES)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self.tick()
            except TakenError as error:
                _log.error("%s; this server exits", error)
                self.lost()
                return
            except SQLAlchemyError as error:
                _log.warning("housekeeping: %s", error)
            except Exception:  # the next tick may succeed
                _log.exception("housekeeping")
            self._closing.wait(TICK_SECONDS)


def trim(file: Path, most: int, kept: int) -> None:
    """Drop the beginning of a file that is too long and to which processes append.

    Args:
        file: The file; it is truncated in place, since processes have it open.
        most: Bytes above which the file is shortened.
        kept: Bytes of its end to keep.
    """
    if file.stat().st_size <= most:
        return
    with file.open("r+b") as stream:
        stream.seek(-kept, os.SEEK_END)
        end = stream.read()
        stream.truncate(0)
    with file.open("ab") as stream:
        stream.write(end.partition(b"\n")[2])
