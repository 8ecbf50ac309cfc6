"""Turns: expensive calls run in a few separate threads, users take turns, and each user has a limit."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Depends, Request

from sweeper.service.api.auth import bucket
from sweeper.service.policy.errors import RefusedError

AT_ONCE = 4
"""Calls that run at a time; more than one, since a call may wait for storage."""
WAITING = 200
"""Calls of all users that may wait for a turn."""

T = TypeVar("T")


class Turns:
    """Limits the expensive calls of each user and runs them in turn; thread-safe.

    Args:
        each: Expensive calls that one user may have in flight.
        closing: Set when the service stops.

    Attributes:
        computing: Held while a spec is parsed and checked, since every computing thread slows down cheap requests.
    """

    def __init__(self, each: int, closing: threading.Event) -> None:
        self.each, self.closing = each, closing
        self.computing = threading.Lock()
        self._lock = threading.Lock()
        self._flying = Counter[str]()
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()
        self._count = 0
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="turn")

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Count an expensive call of a user while it runs.

        Raises:
            RefusedError: The user has the maximum number of calls in flight (429).
        """
        with self._lock:
            if self._flying[name] >= self.each:
                text = f"a user may have {self.each} expensive requests in flight: wait until one is answered"
                raise RefusedError(429, text, {"Retry-After": "1"})
            self._flying[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._flying[name] -= 1
                if not self._flying[name]:
                    del self._flying[name]

    async def run(self, name: str, call: Callable[..., T], *args: Any) -> T:
        """Run a call when its turn comes and return its result; the request's thread does not wait.

        Args:
            name: The caller; callers take turns, however many calls each has.
            call: Called with `args` in a thread.
            args: Arguments of the call.

        Raises:
            RefusedError: Too many calls wait (503).
        """
        done = Future[T]()
        context = contextvars.copy_context()

        def work() -> None:
            if not done.set_running_or_notify_cancel():
                return  # the request was cancelled
            try:
                if self.closing.is_set():
                    raise RefusedError(503, "the service is stopping", {"Retry-After": "10"})
                done.set_result(context.run(call, *args))
            except BaseException as error:
                done.set_exception(error)

        with self._lock:
            if self._count >= WAITING:
                raise RefusedError(503, "too many requests wait: try again", {"Retry-After": "5"})
            self._count += 1
            self._waiting.setdefault(name, deque()).append(work)
        self._threads.submit(self._next)
        return await asyncio.wrap_future(done)

    def _next(self) -> None:
        with self._lock:
            name, works = self._waiting.popitem(last=False)
            work = works.popleft()
            if works:
                self._waiting[name] = works  # behind the other users
            self._count -= 1
        work()


async def _expensive(request: Request) -> AsyncIterator[None]:
    api = request.app.state.api
    with api.turns.count(bucket(request, api.service.config.auth)):
        yield


Expensive = Depends(_expensive)
"""Counts a request as an expensive one of its user until it is answered."""
