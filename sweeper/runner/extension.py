"""Session of an extension: further trials in the folder of a sweep, from `sweeper.analysis.evidence.plan`.

These trials have no number and the sampler `extend`, so the points of a design and of a resume stay the same.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from sweeper.analysis.evidence.plan import Plan, PlannedTrials
from sweeper.analysis.stages.designed import EXTEND
from sweeper.runner.jobs import Job, Row
from sweeper.runner.session import Session
from sweeper.runner.status import Status
from trainables.spec import PairSpec


class Extension(Session):
    """Session of a plan; it counts trials, not configurations, and its sampler learns nothing.

    Args:
        plan: The trials.
        arguments: Arguments of `Session`.
    """

    def __init__(self, plan: Plan, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pruner = None  # every planned trial runs to its end
        self.runtime = replace(self.runtime, rungs=0)
        self.jobs = [
            Job(None, g, {**self._context(p.noise), "sampler": EXTEND}) for p in plan.planned for g in _groups(p)
        ]
        # an extension adds certainty, so `until_interval` must not stop it
        self.spec = self.budgets.spec = self.spec.model_copy(update={"until_interval": None})
        self.status = Status(len(self.jobs), best=self.status.best, warnings=self.status.warnings)
        self.open = list(range(len(self.jobs)))[::-1]

    def next_job(self) -> Job | None:
        """Return the next trials; None if the session starts no further ones."""
        if not self.open or self.is_over():
            return None
        job = self.jobs[self.open.pop()]
        self.status.running += 1
        self.status.pace.note_start(job.specs[0].digest, time.monotonic(), len(self.jobs) - len(self.open) - 1)
        self.status.target = job.context["noise_target"]
        self.report()
        return job

    def finish(self, job: Job, rows: list[Row]) -> None:
        """Take in the rows of a finished job."""
        self.status.pace.note_end(job.specs[0].digest, time.monotonic())
        self._settle(rows, failed=all(r["outcome"] == "failed" for r in rows))


def _groups(planned: PlannedTrials) -> list[tuple[PairSpec, ...]]:
    # a stack is one job; other repeats get one job each, so that they run side by side
    groups: dict[int, list[PairSpec]] = {}
    for spec in planned.specs:
        groups.setdefault(spec.repeat // spec.stack, []).append(spec)
    return [tuple(group) for group in groups.values()]
