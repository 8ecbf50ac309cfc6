"""Address of the sweeps' Ray: a background thread finds or starts Ray, and nobody waits for it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from sweeper.backoff import Backoff
from sweeper.errors import SpecError

_log = logging.getLogger("sweeper.service")
FRESH_SECONDS = 5.0
BACKOFF = Backoff(10.0, 300.0)


class RayAddress:
    """The last known address of Ray.

    Args:
        find: Returns the address after seconds or minutes; an exception says why there is none.
        on_result: Called when a search has ended.
    """

    def __init__(self, find: Callable[[], str], on_result: Callable[[], None]) -> None:
        self._find, self._on_result = find, on_result
        self._lock = threading.Lock()
        self._address, self._found_at = "", -math.inf
        self._searching, self._due, self._failures = False, -math.inf, 0
        self.trouble = ""
        """Why the last search failed; empty after a success."""

    def get(self) -> str | None:
        """Return the address; None during a search, which this call starts if due."""
        now = time.monotonic()
        with self._lock:
            if now - self._found_at < FRESH_SECONDS:
                return self._address
            if not self._searching and now >= self._due:
                self._searching = True
                threading.Thread(target=self._search, name="ray", daemon=True).start()
        return None

    def _search(self) -> None:
        try:
            address, trouble = self._find(), ""
        except SpecError as error:
            address, trouble = "", str(error)
        except Exception as error:
            _log.exception("the search for Ray failed")
            address, trouble = "", f"{type(error).__name__}: {' '.join(str(error).split())}"
        with self._lock:
            self._searching, self.trouble, now = False, trouble, time.monotonic()
            if trouble:
                self._failures += 1
                pause = BACKOFF.pause(self._failures)
                _log.warning("%s; sweeps wait, next try in %g s", trouble, pause)
                self._due = now + pause
            else:
                self._address, self._found_at, self._failures = address, now, 0
        self._on_result()
