"""Waiting for progress: no result of a test depends on how fast the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 300.0
"""Time [s] after which whatever a test waits for counts as stuck; a machine under load never gets near it."""


def until(condition: Callable[[], object], tell: Callable[[], object] = lambda: "no progress") -> None:
    """Wait until a condition holds.

    Args:
        condition: Called again and again.
        tell: Says what is known if the condition never holds.

    Raises:
        AssertionError: The condition does not hold after `PATIENCE`.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, tell()
        time.sleep(0.01)
