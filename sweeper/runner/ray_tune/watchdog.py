"""A watch over the Ray that a driver runs on: where it dies or shrinks, the driver does not wait for it for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

LOOK_SECONDS, GRACE_SECONDS = 0.5, 5.0
ROOM_SECONDS, PATIENCE_SECONDS = 10.0, 300.0
GROWING_SECONDS = 1800.0
"""Patience with a cluster that adds nodes: machines are ordered, and images pulled."""
ERROR = 1


class RayLostError(OSError):
    """The Ray that the sweep ran on died; its text is one sentence."""


@dataclass
class Room:
    """Whether a cluster that a sweep joined can still hold a trial, asked now and then while none runs.

    Args:
        lack: Returns why its nodes cannot, empty where they can.
        clock: Seconds; for tests.
        patience: So long the sweep waits for a node that can [s].
    """

    lack: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    patience: float = PATIENCE_SECONDS
    _since: float | None = None
    _next: float = 0.0

    def look(self, running: bool) -> str:
        """Return why the sweep is to end, empty where it goes on; to be called again and again."""
        now = self.clock()
        if running:
            self._since = None
        elif now >= self._next:
            self._next = now + ROOM_SECONDS
            if not (why := self.lack()):
                self._since = None
                return ""
            self._since = now if self._since is None else self._since
            if now - self._since >= self.patience:
                return f"for {self.patience / 60:g} minutes no node could take a trial: {why}"
        return ""


@contextmanager
def watched(dead: Callable[[], str]) -> Iterator[None]:
    """Raise RayLostError in the main thread once Ray is dead; in other threads than the main one nothing is watched.

    Python code is interrupted at once. A call into Ray may never return: after a grace the process ends with exit
    code 1, finished trials are on disk.

    Args:
        dead: Returns what died, empty as long as all is well.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, found = threading.Event(), list[str]()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise RayLostError(_sentence(found[0]))

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if what := dead():
                found.append(what)
                os.kill(os.getpid(), signal.SIGUSR2)
                if not over.wait(GRACE_SECONDS):
                    print(f"error: {_sentence(what)}", file=sys.stderr, flush=True)
                    os._exit(ERROR)
                return

    old = signal.signal(signal.SIGUSR2, interrupt)
    thread = threading.Thread(target=look, daemon=True, name="watch over Ray")
    thread.start()
    try:
        yield
    except BaseException:
        if found:  # a call into Ray that was interrupted, or noticed by itself, ends in one of many ways
            raise RayLostError(_sentence(found[0])) from None
        raise
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR2, old)


def _sentence(what: str) -> str:
    return f"Ray died ({what}); finished trials are kept, `sweeper resume` continues"
