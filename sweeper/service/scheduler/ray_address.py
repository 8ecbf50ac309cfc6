"""Where the sweeps' Ray is: looked for, or started, in a thread of its own; nobody waits for it."""

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
    """The address of Ray as it was a moment ago.

    Args:
        find: Returns it, after seconds or minutes; a `SpecError` or any other says why there is none.
        told: Called when a search has ended.
    """

    def __init__(self, find: Callable[[], str], told: Callable[[], None]) -> None:
        self._find, self._told = find, told
        self._lock = threading.Lock()
        self._found, self._looked = "", -math.inf
        self._searching, self._due, self._failures = False, -math.inf, 0
        self.trouble = ""
        """Why the last search found nothing; empty once one finds it."""

    def get(self) -> str | None:
        """Return the address; None where it is not known now, and is looked for."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked < FRESH_SECONDS:
                return self._found
            if not self._searching and now >= self._due:
                self._searching = True
                threading.Thread(target=self._search, name="ray", daemon=True).start()
        return None

    def _search(self) -> None:
        try:
            found, trouble = self._find(), ""
        except SpecError as error:
            found, trouble = "", str(error)
        except Exception as error:
            _log.exception("the search for Ray failed")
            found, trouble = "", f"{type(error).__name__}: {' '.join(str(error).split())}"
        with self._lock:
            self._searching, self.trouble, now = False, trouble, time.monotonic()
            if trouble:
                self._failures += 1
                pause = BACKOFF.pause(self._failures)
                _log.warning("%s; sweeps wait, next try in %g s", trouble, pause)
                self._due = now + pause
            else:
                self._found, self._looked, self._failures = found, now, 0
        self._told()
