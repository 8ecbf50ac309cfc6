"""SIGINT and SIGTERM: whoever stops a sweep, it ends the same way."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM inside the block; in other threads than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


class TuneSignals:
    """Turns SIGINT and SIGTERM into Tune's own graceful stop; a second one raises KeyboardInterrupt.

    Args:
        halt: Called with why no further configuration is to be started.
    """

    def __init__(self, halt: Callable[[str], None]) -> None:
        self.halt = halt
        self.seen: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        self.seen.append(number)
        if len(self.seen) > 1:
            raise KeyboardInterrupt
        print("stopping; finished trials are kept (again: at once)", file=sys.stderr, flush=True)
        self.halt("interrupted")
        # Tune listens to SIGUSR1 while it runs; Ray's start is not to be interrupted, it is over in seconds
        if signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            os.kill(os.getpid(), signal.SIGUSR1)

    def install(self) -> None:
        """Take the signals over; to be called again once Ray has started, which takes SIGTERM for itself."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take the signals over for the block, in the main thread; elsewhere they stay as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
        self.install()
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
