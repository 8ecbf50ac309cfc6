"""Hub: distributes events of the sweeps to listeners, and keeps the last events for listeners that reconnect."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from sweeper.client.models import Event, moment

KEPT = 20_000

Kind = Literal["trial", "target", "verdict", "best", "state", "progress"]


class Hub:
    """Events of all sweeps, in order; thread-safe, for listeners in any number of event loops.

    Args:
        clock: Returns seconds since 1970; ids start with it, so they increase across restarts.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.last = int(clock() * 1000)
        """Id of the last event."""
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def publish(self, sweep: str, kind: Kind, data: dict[str, Any]) -> Event:
        """Add an event and wake the listeners."""
        with self._lock:
            self.last += 1
            event = Event(id=self.last, sweep=sweep, type=kind, time=moment(self.clock()), data=data)
            self._events.append(event)
            waiting, self._waiting = self._waiting, {}
        for future, loop in waiting.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)
        return event

    def since(self, last: int, sweep: str | None = None) -> list[Event]:
        """Return the kept events after the one with id `last`, of one sweep or of all."""
        with self._lock:
            newest_first: list[Event] = []
            for event in reversed(self._events):
                if event.id <= last:
                    break
                if sweep is None or event.sweep == sweep:
                    newest_first.append(event)
        return newest_first[::-1]

    async def wait(self, last: int, timeout: float) -> None:
        """Wait until an event follows the one with id `last`, or `timeout` seconds have passed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self.last > last:
                return
            self._waiting[future] = loop
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting.pop(future, None)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
