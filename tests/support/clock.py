"""A clock that a test sets."""

from __future__ import annotations

from sweeper.service.db.tables import DAY_SECONDS


class Clock:
    """A clock that is set by hand; it starts at noon."""

    def __init__(self) -> None:
        self.now = 1000.5 * DAY_SECONDS

    def __call__(self) -> float:
        return self.now
