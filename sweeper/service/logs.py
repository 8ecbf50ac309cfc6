"""The service's log: an error that comes again and again is written once a minute, with a count."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

EVERY_SECONDS = 60.0
_KEPT = 500
_FAILED = "%s failed: %s: %s"
_log = logging.getLogger("sweeper.service")
COUNTED = "counted"
"""Attribute of a record that tells of others, and is never held back."""
LOGGERS = ("sweeper.service", "uvicorn.error")


@dataclass
class _Seen:
    """One kind of error: when it was written last, and how often it came since."""

    written: float
    again: int = 0
    text: str = ""


class Repeats(logging.Filter):
    """Holds back records like one of the last minute; two are alike where template, kind and place of error are.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written; one that follows others that were held back tells their number."""
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
            record.msg = f"{record.getMessage()} (and {seen.again} times before, in {now - seen.written:.0f} s)"
            record.args = None
        return True

    def overdue(self) -> list[str]:
        """Return a line for each error that was held back and has not come for a minute."""
        now = self.clock()
        with self._lock:
            over = {k: s for k, s in self._seen.items() if now - s.written >= EVERY_SECONDS}
            for key in over:
                del self._seen[key]
        return [f"{s.text} ({s.again} times more, in {now - s.written:.0f} s)" for s in over.values() if s.again]

    def _drop(self, now: float) -> None:
        for key in [k for k, s in self._seen.items() if now - s.written >= EVERY_SECONDS] or list(self._seen):
            del self._seen[key]


def _kind(record: logging.LogRecord) -> tuple[object, ...]:
    kind, _, trace = record.exc_info if record.exc_info else (None, None, None)
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (trace.tb_frame.f_code, trace.tb_lineno) if trace is not None else None
    # the step and kind of error, but no sweep's name and no address
    said = record.args[:2] if record.msg == _FAILED and isinstance(record.args, tuple) else ()
    return record.name, record.levelno, str(record.msg), kind, place, said


def report_failure(what: str, error: Exception) -> None:
    """Log that a step of the service failed: one line where the database or disk is in trouble, else a traceback."""
    known = isinstance(error, SQLAlchemyError | OSError)
    text = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    _log.error(_FAILED, what, type(error).__name__, text, exc_info=None if known else error)


REPEATS = Repeats()
"""The filter of this process."""


def count_repeats() -> None:
    """Hold back repeated errors of the service from now on."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(REPEATS)  # a second time it is the same one
