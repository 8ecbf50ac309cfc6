"""Further attempts of jobs that lost their process or node, each after a longer pause."""

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
    """Keeps jobs until they are due again; others run meanwhile.

    Args:
        most: How often a job is run again.
        clock: Seconds; for tests.
    """

    most: int
    clock: Callable[[], float] = time.monotonic
    waiting: list[tuple[float, Job]] = field(default_factory=lambda: [])
    _lost: Counter[str] = field(default_factory=lambda: Counter())

    def again(self, job: Job) -> bool:
        """Keep a job for a further attempt; returns False where it had all of them."""
        key = job.specs[-1].digest  # repeats that are done leave a job from its front
        self._lost[key] += 1
        if self._lost[key] > self.most:
            return False
        self.waiting.append((self.clock() + BACKOFF.pause(self._lost[key]), job))
        return True

    def due(self) -> Job | None:
        """Return a job whose pause is over and forget it; None where there is none."""
        now = self.clock()
        ready = next((entry for entry in self.waiting if entry[0] <= now), None)
        if ready is None:
            return None
        self.waiting.remove(ready)
        return ready[1]
