"""Turns: calls that take long have a few threads of their own, users one after the other, and a bound on each user."""

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
"""Calls that have their turn; those that wait for storage hold up nobody else."""
WAITING = 200
"""Calls of all users that may wait for one of them."""

T = TypeVar("T")


class Turns:
    """Bounds what users may have in flight, and runs what has to wait; for several threads.

    Args:
        each: Expensive calls that one user may have in flight.
        closing: Set when the service ends.

    Attributes:
        computing: Held while a spec is read and checked: threads share one interpreter, and each that computes holds
            up what is cheap.
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
    def held(self, name: str) -> Iterator[None]:
        """Count an expensive call of a user for as long as it takes.

        Raises:
            RefusedError: The user has as many as one may have (429).
        """
        with self._lock:
            if self._flying[name] >= self.each:
                text = f"at most {self.each} calls of one user that take long run or wait: send it when one is answered"
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
        """Return what a call returns when it has had its turn; no thread of others waits for it.

        Args:
            name: Whose call it is: users with fewer calls do not wait for those with more.
            call: Called with `args` in a thread.
            args: Its arguments.

        Raises:
            RefusedError: Too many calls wait (503).
        """
        done = Future[T]()
        context = contextvars.copy_context()

        def work() -> None:
            if not done.set_running_or_notify_cancel():
                return  # nobody waits for it any more
            try:
                if self.closing.is_set():
                    raise RefusedError(503, "the service is ending", {"Retry-After": "10"})
                done.set_result(context.run(call, *args))
            except BaseException as error:
                done.set_exception(error)

        with self._lock:
            if self._count >= WAITING:
                raise RefusedError(503, "too many calls wait for their turn: try again", {"Retry-After": "5"})
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
    with api.turns.held(bucket(request, api.service.config.auth)):
        yield


Expensive = Depends(_expensive)
"""Counts a request among the expensive ones of its user until it is answered."""
