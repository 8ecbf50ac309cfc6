"""Watchdog of the driver's Ray: if Ray dies or loses nodes, the driver does not wait forever."""

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
"""Patience with a cluster that adds nodes, which boots machines and pulls images."""
ERROR = 1


class RayLostError(OSError):
    """The driver's Ray died; the message is one sentence."""


@dataclass
class Room:
    """Regular check, while no trial runs, that the cluster can still hold one.

    Args:
        lack: Returns why the nodes cannot hold a trial; empty if they can.
        clock: Returns seconds; tests replace it.
        patience: Time that the sweep waits for a node [s].
    """

    lack: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    patience: float = PATIENCE_SECONDS
    _since: float | None = None
    _next: float = 0.0

    def look(self, running: bool) -> str:
        """Return why the sweep should end; empty if it continues. Call it regularly."""
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
                return f"no node could take a trial for {self.patience / 60:g} minutes: {why}"
        return ""


@contextmanager
def watch_ray(find_dead: Callable[[], str]) -> Iterator[None]:
    """Raise RayLostError in the main thread once Ray is dead; does nothing outside of the main thread.

    The error interrupts Python code at once. A call into Ray may never return, so the process ends with exit code 1
    after a grace period; finished trials are on disk.

    Args:
        find_dead: Returns the processes of Ray that died; empty while all live.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over, dead = threading.Event(), list[str]()

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise RayLostError(_sentence(dead[0]))

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            if names := find_dead():
                dead.append(names)
                os.kill(os.getpid(), signal.SIGUSR2)
                if not over.wait(GRACE_SECONDS):
                    print(f"error: {_sentence(names)}", file=sys.stderr, flush=True)
                    os._exit(ERROR)
                return

    old = signal.signal(signal.SIGUSR2, interrupt)
    thread = threading.Thread(target=look, daemon=True, name="watchdog of Ray")
    thread.start()
    try:
        yield
    except BaseException:
        if dead:  # a call into Ray raises one of many errors, interrupted or not
            raise RayLostError(_sentence(dead[0])) from None
        raise
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR2, old)


def _sentence(names: str) -> str:
    return f"Ray died ({names}); finished trials are kept, `sweeper resume` continues"
