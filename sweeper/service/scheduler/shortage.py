"""Shortage: starts pause for a while if the machine runs out of descriptors, memory, processes or disk space."""

from __future__ import annotations

import logging
import math
import time

from sweeper.errors import shortage
from sweeper.service.logs import report_failure
from sweeper.storage.retry import is_full

PAUSE_SECONDS = 10.0
_log = logging.getLogger("sweeper.service")


class Shortage:
    """The machine's latest shortage, and the pause after it."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the next sweep does not start."""
        self._until = -math.inf

    @property
    def lasts(self) -> bool:
        """Whether starts pause now."""
        return time.monotonic() < self._until

    def note(self, error: Exception) -> bool:
        """Return whether an error is a shortage; if so, starts pause for a while."""
        lack = shortage(error) or ("the disk of the service's state is full" if is_full(error) else "")
        if lack and not self.lasts:
            _log.warning("sweeps wait, next try in %g s: %s", PAUSE_SECONDS, lack)
            self._until = time.monotonic() + PAUSE_SECONDS
        if lack:
            self.reason = f"waiting to try again: {lack}"
        return bool(lack)

    def report(self, what: str, error: Exception) -> None:
        """Log a failed step of the service, unless a shortage caused it, which `note` logs."""
        if not self.note(error):
            report_failure(what, error)
