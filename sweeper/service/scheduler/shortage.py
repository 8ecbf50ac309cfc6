"""Shortage: nothing is started for a while where the machine lacks descriptors, memory, processes or room."""

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
    """What the machine was short of a moment ago."""

    def __init__(self) -> None:
        self.reason = ""
        """Why a sweep waits whose turn it is."""
        self._until = -math.inf

    @property
    def lasts(self) -> bool:
        """Whether nothing is to be started now."""
        return time.monotonic() < self._until

    def caused(self, error: Exception) -> bool:
        """Whether an error is a shortage, which from now on lasts for a while."""
        lack = shortage(error) or ("the disk of the service's state is full" if is_full(error) else "")
        if lack and not self.lasts:
            _log.warning("sweeps wait, next try in %g s: %s", PAUSE_SECONDS, lack)
            self._until = time.monotonic() + PAUSE_SECONDS
        if lack:
            self.reason = f"it waits, and is tried again: {lack}"
        return bool(lack)

    def report(self, what: str, error: Exception) -> None:
        """Log that a step of the service failed, unless for a shortage, which is logged already."""
        if not self.caused(error):
            report_failure(what, error)
