"""Answers that take long: computed once as long as nothing changes, few at a time, the last ones kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, TypeVar

from sweeper.errors import SpecError
from sweeper.service.policy.errors import RefusedError

AT_ONCE = 2
"""Computations at a time."""
WAITING, WAIT_SECONDS = 16, 10.0
"""Requests that may wait for one, and for how long [s]; each holds one of the 40 threads that answer."""
KEPT, KEPT_BYTES = 256, 64_000_000
"""Answers that are kept, and how many bytes of pages."""

T = TypeVar("T")


class Answers:
    """Answers by what they depend on; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._running: dict[Hashable, Future[Any]] = {}
        self._waiting = self._bytes = 0

    def of(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return an answer: the kept one, that of another request that is computing it, or a new one.

        Args:
            key: All that the answer depends on.
            compute: Makes it; that there is none (a SpecError) is kept as well.

        Raises:
            RefusedError: Too many are asked for (503).
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return _outcome(self._kept[key])
            running = self._running.get(key)
            mine = Future[Any]()
            if running is None:
                self._running[key] = mine
        if running is not None:
            return _outcome(self._awaited(lambda: running.result(WAIT_SECONDS)))
        try:
            if not self._turns.acquire(blocking=False):
                self._awaited(self._take_turn)
            try:
                found: Any = compute()
            finally:
                self._turns.release()
        except BaseException as error:
            found = error
        self._done(key, mine, found)
        return _outcome(found)

    def _take_turn(self) -> None:
        if not self._turns.acquire(timeout=WAIT_SECONDS):
            raise TimeoutError

    def _awaited(self, wait: Callable[[], T]) -> T:
        with self._lock:
            full = self._waiting >= WAITING
            self._waiting += not full
        if full:
            raise _busy()
        try:
            return wait()
        except TimeoutError:
            raise _busy() from None
        finally:
            with self._lock:
                self._waiting -= 1

    def _done(self, key: Hashable, mine: Future[Any], found: Any) -> None:
        # what has another type than SpecError may pass
        lasting = not isinstance(found, BaseException) or type(found) is SpecError
        with self._lock:
            del self._running[key]
            if lasting:
                self._kept[key] = found
                self._bytes += _size(found)
                while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
                    self._bytes -= _size(self._kept.popitem(last=False)[1])
        mine.set_result(found)


def _size(found: Any) -> int:
    """Return the bytes of a page, which is a tuple of its parts."""
    return sum(map(len, found)) if isinstance(found, tuple) else 0


def _outcome(found: Any) -> Any:
    if isinstance(found, BaseException):
        raise found.with_traceback(None)  # which would grow with each request
    return found


def _busy() -> RefusedError:
    return RefusedError(503, "the service computes other answers: try again", {"Retry-After": "5"})
