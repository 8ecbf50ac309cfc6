"""Pace of a sweep: how long the rest takes, from wall times of its trials and the driver's time for its proposals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from sweeper.search.stages import CHOOSE, MAPPING, SEARCH, StagePlan

_FIRST_FIT = 0.6  # the first fit of a driver loads its libraries
_FITS = {"noise": 0.1, "gp": 0.3}
"""Sampler -> time of a fit and a proposal on one core [s], measured after 48 trials."""
_CHOICE, _CHOICE_TRIALS, _CHOICE_POWER = 6.4, 48, 0.54
"""Time to choose the candidates [s] after this number of trials, and the power of its growth: 12.3 s after 160."""
_STARTUP = 5  # proposals of a sampler before its first fit
_SURE = 1.0  # seconds of proposals that count as much as their expected time
_REST = 0.25  # share of a trial that is left at least, while it runs
_FEW = 3.0  # trials of a stage that count as much as those before it


@dataclass
class Pace:
    """Wall times of the trials and proposals of one driver.

    Attributes:
        asks: Expected time of the driver for each proposal of the sweep, in order [s]; empty for none.
        starts: Numbers before which every earlier trial has to end.
        work: Training budgets of the proposals, in order; empty if all are equal.
        begun: Start of the first proposal of this driver, from `time.monotonic`; None before it.
    """

    asks: Sequence[float] = ()
    starts: Sequence[int] = (0,)
    work: Sequence[float] = ()
    begun: float | None = None
    _asked: float = 0.0
    _expected: float = 0.0
    _stage: str = ""
    _counted: tuple[float, int] | None = None
    _running: dict[Hashable, tuple[float, float]] = field(default_factory=lambda: {})
    """Key of a running trial -> start, work."""
    _all: list[tuple[float, float]] = field(default_factory=lambda: [])
    """(seconds, work) of the trials that have ended, and those of the present stage."""
    _own: list[tuple[float, float]] = field(default_factory=lambda: [])

    def note_start(self, key: Hashable, now: float, number: int, stage: str = "", asked: float | None = None) -> None:
        """Note a trial that starts.

        Args:
            key: Its name.
            now: Present time [s].
            number: Number of its proposal.
            stage: Its stage as people call it.
            asked: Time when the driver began with the proposal [s]; by default now.
        """
        if self.begun is not None and asked is not None and self.asks and self.asks[number]:
            self._asked, self._expected = self._asked + now - asked, self._expected + self.asks[number]
        self.begun = now if self.begun is None else self.begun
        if stage != self._stage:
            self._stage, self._own = stage, []
        self._running[key] = now, self._weigh(number)

    def note_end(self, key: Hashable, now: float) -> None:
        """Note a trial that ends."""
        if key in self._running:
            start, work = self._running.pop(key)
            self._all.append((now - start, work))
            self._own.append((now - start, work))

    def note_count(self, now: float, ended: int) -> None:
        """Note how many trials have ended, where nobody says when they start."""
        if self._counted is not None and ended > self._counted[1]:
            since, before = self._counted
            self._all.append((now - since, ended - before))
        if self._counted is None or ended > self._counted[1]:
            self._counted = now, ended

    def find_left(self, now: float, total: int, ended: int, workers: int) -> float | None:
        """Return the expected wall time to the end [s]; None before the first result of this driver.

        Trials need a worker, proposals the driver. The end of a stage waits for the last of its trials.

        Args:
            now: Present time.
            total: Proposals of the sweep.
            ended: Proposals that have ended.
            workers: Trials that run at a time.
        """
        if not self._all or ended >= total:
            return None
        each = self._find_seconds(now)
        slow = (self._asked + _SURE) / (self._expected + _SURE)
        running = [max(each * work - now + start, each * work * _REST) for start, work in self._running.values()]
        number, left = ended + len(running), 0.0
        for end in [*(start for start in self.starts if start > number), total]:
            count = min(workers, len(running) + end - number)
            if count > 0:
                left += math.fsum(running) / count + each * self._weigh(end - 1) * (count - 1) / (2 * count)
            for n in range(number, end):
                ask, trial = slow * self.asks[n] if self.asks else 0.0, each * self._weigh(n)
                alone = n in self.starts  # no trial runs beside the proposal
                left += ask + trial / count if alone else max(ask, (trial + ask) / count)
            number, running = end, []
        return left

    def _find_seconds(self, now: float) -> float:
        """Return the time of a trial per unit of work [s]: of the stage, and of all trials while it is young."""
        seconds, work = (math.fsum(column) for column in zip(*self._all, strict=True))
        mean = self._add_running(now, seconds, work)
        if not self._own:
            return mean
        seconds, work = (math.fsum(column) for column in zip(*self._own, strict=True))
        known = _FEW * work / len(self._own)
        return self._add_running(now, seconds + known * mean, work + known)

    def _add_running(self, now: float, seconds: float, work: float) -> float:
        # a trial that runs longer than the others' mean shows that the mean is too small
        over = (now - start - seconds / work * size for start, size in self._running.values())
        return (seconds + math.fsum(max(0.0, more) for more in over)) / work

    def _weigh(self, number: int) -> float:
        return self.work[number] if self.work else 1.0


def make_pace(plan: StagePlan, sampler: str, proxy: float | None = None) -> Pace:
    """Return the pace of a sweep before its first trial.

    Args:
        plan: The stages of its configurations.
        sampler: Its sampler.
        proxy: Share of the training budget of the map's trials; None for all of it.
    """
    stages = map(plan.stage_of, range(plan.total))
    work = [] if proxy is None else [proxy if stage in MAPPING else 1.0 for stage in stages]
    fit, starts = _FITS.get(sampler, 0.0), [segment.start for segment in plan.segments]
    if not fit:
        return Pace(starts=starts, work=work)
    asks, first = [0.0] * plan.total, _FIRST_FIT
    for number in (s.start for s in plan.segments if s.stage == CHOOSE):
        asks[number] = _CHOICE * (number / _CHOICE_TRIALS) ** _CHOICE_POWER
    for segment in plan.segments:
        for number in range(max(segment.start, _STARTUP), segment.end) if segment.stage == SEARCH else ():
            asks[number], first = fit + first, 0.0
    return Pace(asks, starts, work)
