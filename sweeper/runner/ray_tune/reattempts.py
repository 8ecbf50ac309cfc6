"""Further attempts of jobs whose process or node died, each after a longer pause."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sweeper.backoff import Backoff
from sweeper.runner.jobs import Job

BACKOFF = Backoff(1.0, 60.0)


@dataclass
class Attempts:
    """Queue of jobs that wait for a further attempt while others run.

    Args:
        limit: Number of further attempts of a job.
        clock: Returns seconds; tests replace it.
    """

    limit: int
    clock: Callable[[], float] = time.monotonic
    waiting: list[tuple[float, Job]] = field(default_factory=lambda: [])
    _lost: Counter[str] = field(default_factory=lambda: Counter())

    def retry(self, job: Job) -> bool:
        """Keep a job for a further attempt; returns False if none is left."""
        key = job.specs[-1].digest  # the last repeat stays in the job when earlier ones end
        self._lost[key] += 1
        if self._lost[key] > self.limit:
            return False
        self.waiting.append((self.clock() + BACKOFF.pause(self._lost[key]), job))
        return True

    def pop_due(self) -> Job | None:
        """Remove and return a job whose pause is over; None without one."""
        now = self.clock()
        ready = next((entry for entry in self.waiting if entry[0] <= now), None)
        if ready is None:
            return None
        self.waiting.remove(ready)
        return ready[1]
