"""Session of an extension: trials that join a sweep beside its own.

They have no number in the sweep and the sampler `extend`, so a design's point i and the rest of a resume stay as they
were. `sweeper.analysis.evidence.plan` says which trials they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sweeper.analysis.evidence.plan import Plan, PlannedTrials
from sweeper.analysis.regime import EXTEND
from sweeper.runner.jobs import Job, Row
from sweeper.runner.session import Session
from sweeper.runner.status import Status
from trainables.spec import PairSpec


class Extension(Session):
    """The trials of a plan, for every runner; it counts trials, not configurations, and learns nothing.

    Args:
        plan: What to run.
        given: Arguments of `Session`.
    """

    def __init__(self, plan: Plan, *given: Any) -> None:
        super().__init__(*given)
        self.pruner = None  # what was asked for is run to its end
        self.runtime = replace(self.runtime, rungs=0)
        self.jobs = [
            Job(None, g, {**self._context(p.noise), "sampler": EXTEND}) for p in plan.planned for g in _groups(p)
        ]
        self.spec = self.budgets.spec = self.spec.model_copy(update={"until_interval": None})  # it adds certainty
        self.status = Status(len(self.jobs), best=self.status.best, warnings=self.status.warnings)
        self.open = list(range(len(self.jobs)))[::-1]

    def next_job(self) -> Job | None:
        """Return the next trials, or None when none is to be started any more."""
        if self.over() or not self.open:
            return None
        job = self.jobs[self.open.pop()]
        self.status.running += 1
        self.status.target = job.context["noise_target"]
        self.report()
        return job

    def finish(self, job: Job, rows: list[Row]) -> None:
        """Take in the rows of a finished job."""
        self._settle(rows, failed=all(r["outcome"] == "failed" for r in rows))


def _groups(planned: PlannedTrials) -> list[tuple[PairSpec, ...]]:
    # stack mates are one job; the others one each, so that they run side by side
    groups: dict[int, list[PairSpec]] = {}
    for spec in planned.specs:
        groups.setdefault(spec.repeat // spec.stack, []).append(spec)
    return [tuple(own) for own in groups.values()]
