"""Handlers of SIGINT and SIGTERM, which end a sweep in the same way."""

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
    """Raise KeyboardInterrupt on SIGTERM inside the block; does nothing outside of the main thread."""
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
    """Turns SIGINT and SIGTERM into Tune's graceful stop; a second signal raises KeyboardInterrupt.

    Args:
        halt: Called with the reason to start no further configuration.
    """

    def __init__(self, halt: Callable[[str], None]) -> None:
        self.halt = halt
        self.seen: list[int] = []

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.seen.append(number)
        if len(self.seen) > 1:
            raise KeyboardInterrupt
        print("stopping; finished trials are kept (press Ctrl-C again to stop at once)", file=sys.stderr, flush=True)
        self.halt("interrupted")
        # Tune handles SIGUSR1 while it runs; before that Ray starts, which takes seconds and must not be interrupted
        if signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN, None):
            os.kill(os.getpid(), signal.SIGUSR1)

    def install(self) -> None:
        """Install the handlers; call it again after the start of Ray, which installs its own for SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handlers for the block; does nothing outside of the main thread."""
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
