"""Memo of expensive answers: each is computed once until something changes, and few are computed at a time."""

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
"""Requests that may wait for a computation, and for how long [s]; each holds one of the 40 server threads."""
KEPT, KEPT_BYTES = 256, 64_000_000
"""Maximum number of stored answers, and of bytes of stored pages."""

T = TypeVar("T")


class Memo:
    """Stored answers by their key; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._running: dict[Hashable, Future[Any]] = {}
        self._waiting = self._bytes = 0

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return an answer: a stored one, the result of a concurrent request for it, or a new one.

        Args:
            key: Everything that the answer depends on.
            compute: Computes the answer; a SpecError is stored like an answer.

        Raises:
            RefusedError: Too many requests wait (503).
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return _outcome(self._kept[key])
            running = self._running.get(key)
            future = Future[Any]()
            if running is None:
                self._running[key] = future
        if running is not None:
            return _outcome(self._wait(lambda: running.result(WAIT_SECONDS)))
        try:
            if not self._turns.acquire(blocking=False):
                self._wait(self._take_turn)
            try:
                result: Any = compute()
            finally:
                self._turns.release()
        except BaseException as error:
            result = error
        self._finish(key, future, result)
        return _outcome(result)

    def _take_turn(self) -> None:
        if not self._turns.acquire(timeout=WAIT_SECONDS):
            raise TimeoutError

    def _wait(self, wait: Callable[[], T]) -> T:
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

    def _finish(self, key: Hashable, future: Future[Any], result: Any) -> None:
        # errors other than SpecError may be temporary
        permanent = not isinstance(result, BaseException) or type(result) is SpecError
        with self._lock:
            del self._running[key]
            if permanent:
                self._kept[key] = result
                self._bytes += _size(result)
                while len(self._kept) > KEPT or (self._bytes > KEPT_BYTES and len(self._kept) > 1):
                    self._bytes -= _size(self._kept.popitem(last=False)[1])
        future.set_result(result)


def _size(result: Any) -> int:
    """Return the bytes of a page, which is a tuple of parts; 0 for other answers."""
    return sum(map(len, result)) if isinstance(result, tuple) else 0


def _outcome(result: Any) -> Any:
    if isinstance(result, BaseException):
        raise result.with_traceback(None)  # the traceback would grow with each request
    return result


def _busy() -> RefusedError:
    return RefusedError(503, "the service is busy with other analyses: try again", {"Retry-After": "5"})
