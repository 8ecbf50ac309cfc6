"""The service's log: a repeated error is written once a minute, with a count."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from sweeper.formatting import pluralize

EVERY_SECONDS = 60.0
_KEPT = 500
_FAILED = "%s failed: %s: %s"
_log = logging.getLogger("sweeper.service")
COUNTED = "counted"
"""Attribute of a record that summarises others and is never suppressed."""
LOGGERS = ("sweeper.service", "uvicorn.error")


@dataclass
class _Seen:
    """One kind of error: time of its last record, and number of suppressed ones since."""

    written: float
    again: int = 0
    text: str = ""


class Repeats(logging.Filter):
    """Suppresses a record that repeats one of the last minute: same template, kind of error and place.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a record; after suppressed ones its message gets their number."""
        if record.levelno < logging.WARNING or hasattr(record, COUNTED):
            return True
        key, now = _kind(record), self.clock()
        with self._lock:
            seen = self._seen.get(key)
            if seen is not None and now - seen.written < EVERY_SECONDS:
                seen.again += 1
                seen.text = record.getMessage()
                return False
            if seen is None and len(self._seen) >= _KEPT:
                self._drop(now)
            self._seen[key] = _Seen(now)
        if seen is not None and seen.again:
            record.msg = (
                f"{record.getMessage()} (and {pluralize(seen.again, 'time')} before, in {now - seen.written:.0f} s)"
            )
            record.args = None
        return True

    def overdue(self) -> list[str]:
        """Return a line for each kind of error with suppressed records and no write within the last minute."""
        now = self.clock()
        with self._lock:
            overdue = {k: s for k, s in self._seen.items() if now - s.written >= EVERY_SECONDS}
            for key in overdue:
                del self._seen[key]
        return [
            f"{s.text} ({pluralize(s.again, 'time')} more, in {now - s.written:.0f} s)"
            for s in overdue.values()
            if s.again
        ]

    def _drop(self, now: float) -> None:
        for key in [k for k, s in self._seen.items() if now - s.written >= EVERY_SECONDS] or list(self._seen):
            del self._seen[key]


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    kind, _, trace = record.exc_info if record.exc_info else (None, None, None)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code, trace.tb_lineno) if trace is not None else None
    # step and kind of error, without names of sweeps and addresses
    step = record.args[:2] if record.msg == _FAILED and isinstance(record.args, tuple) else ()
    return record.name, record.levelno, str(record.msg), kind, place, step


def report_failure(what: str, error: Exception) -> None:
    """Log that a step of the service failed, with a traceback unless the database or the disk is the cause."""
    expected = isinstance(error, SQLAlchemyError | OSError)
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    _log.error(_FAILED, what, type(error).__name__, text, exc_info=None if expected else error)


REPEATS = Repeats()
"""The filter of this process."""


def count_repeats() -> None:
    """Suppress repeated errors of the service from now on."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(REPEATS)  # adding it twice has no effect
