"""Housekeeping: what a server does now and then, whatever its sweeps do."""

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
from sweeper.service.scheduler.rebuild import record_missing

TICK_SECONDS = 5.0
PRUNE_SECONDS = 3600.0
LOG_BYTES, KEPT_BYTES = 4 << 20, 1 << 20
_log = logging.getLogger("sweeper.service")


class Housekeeping:
    """Keeps the database this server's, sweeps within quotas, and what is written down bounded.

    Args:
        catalog: The sweeps.
        ownership: The right to run them.
        state: Folder of the control folders.
        quota: User -> what it may have.
        stop: Called with the id of a sweep that is to be stopped, and by what.
        audit_seconds: For so long an entry of the audit log is kept.
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
        lost: Callable[[], None] = lambda: os._exit(2),  # as if killed: the sweeps are the other one's now
    ) -> None:
        self.catalog, self.ownership, self.state = catalog, ownership, state
        self.quota, self.stop, self.audit_seconds, self.lost = quota, stop, audit_seconds, lost
        self._audit = Audit(catalog.engine, catalog.clock)
        self._pruned = -math.inf
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def tick(self) -> None:
        """Do what is due.

        Raises:
            TakenError: Another server has taken the database.
            SQLAlchemyError: It does not answer.
        """
        for line in REPEATS.overdue():
            _log.warning("%s", line, extra={COUNTED: True})
        self.ownership.renew()
        stop_over_quota(self.catalog, self.quota, self.stop)
        if time.monotonic() - self._pruned >= PRUNE_SECONDS:
            self.prune()
            self._pruned = time.monotonic()

    def prune(self) -> None:
        """Drop what is old: entries of the audit log, usage that no quota counts, all but the end of long logs."""
        now = self.catalog.clock()
        self._audit.prune(now - self.audit_seconds)
        self.catalog.prune_usage(now - WINDOW_SECONDS)
        record_missing(self.state, self.catalog)
        for folder in (self.state / "sweeps").glob("*"):
            if (folder / "log").is_file():
                trim(folder / "log", LOG_BYTES, KEPT_BYTES)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self.tick()
            except TakenError as error:
                _log.error("%s; this one ends", error)
                self.lost()
                return
            except SQLAlchemyError as error:
                _log.warning("housekeeping: %s", error)
            except Exception:  # the next look may succeed
                _log.exception("housekeeping")
            self._closing.wait(TICK_SECONDS)


def trim(file: Path, most: int, kept: int) -> None:
    """Keep the end of a file that processes append to, where it is longer than it may be.

    Args:
        file: The file; it stays the same one, for they have it open.
        most: Bytes that it may have.
        kept: Bytes of its end that are kept.
    """
    if file.stat().st_size <= most:
        return
    with file.open("r+b") as opened:
        opened.seek(-kept, os.SEEK_END)
        end = opened.read()
        opened.truncate(0)
    with file.open("ab") as opened:
        opened.write(end.partition(b"\n")[2])
