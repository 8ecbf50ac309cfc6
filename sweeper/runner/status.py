"""Status of a running sweep, and the callbacks by which a driver reports to its caller."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Status:
    """Progress of a sweep, in proposals of its sampler.

    Attributes:
        budget, done, running, failed, pruned: Number of proposals, each of `repeats` trials.
        saved_seconds: Training time of the steps that pruned trials did not run.
        best: Best observed mean of the objective over a configuration's repeats.
        target: Noise of the last proposal.
        warnings: Warning key -> the first trial's sentence.
        started: Start of the driver, from `time.monotonic`.
        repeats: Trials per proposal.
        stage: Stage of the proposal that started last: map, search or confirm; empty in a sweep without stages.
        stage_started, stage_budget: Proposals of that stage that have started, and all of it.
        waited: Time of free workers that waited for the results of others [s].
        workers: Proposals that may run at a time; None if unknown.
        device: Device of the trials; empty before the first result.
        first_start: Start of the first proposal of this driver, from `time.monotonic`; None before it.
        weights: Training budget per proposal, in order; empty if all have the same.
    """

    budget: int
    done: int = 0
    running: int = 0
    failed: int = 0
    pruned: int = 0
    saved_seconds: float = 0.0
    best: float | None = None
    target: float | None = None
    warnings: dict[str, str] = field(default_factory=lambda: {})
    started: float = field(default_factory=time.monotonic)
    repeats: int = 1
    stage: str = ""
    stage_started: int = 0
    stage_budget: int = 0
    waited: float = 0.0
    workers: int | None = None
    device: str = ""
    first_start: float | None = None
    weights: Sequence[float] = ()

    def seconds_left(self, done_before: int) -> float | None:
        """Return the expected time to the end [s]; None before the first result of this driver.

        A running proposal counts as half done. The start of Ray and the checks before it do not count.

        Args:
            done_before: Proposals that were done before this driver.
        """
        ended = self.done + self.failed
        finished = self._work(ended) - self._work(done_before)
        running = (self._work(ended + self.running) - self._work(ended)) / 2
        left = self._work(self.budget) - self._work(ended) - running
        if self.first_start is None or ended - done_before < 1 or left <= 0:
            return None
        return (time.monotonic() - self.first_start) / (finished + running) * left

    def _work(self, count: int) -> float:
        return math.fsum(self.weights[:count]) if self.weights else count

    def show_stage(self, stage: str, position: int, size: int) -> None:
        """Note the stage of the configuration that starts."""
        self.stage, self.stage_started, self.stage_budget = stage, position, size


@dataclass(frozen=True)
class Callbacks:
    """Functions of the caller of a sweep; all are optional.

    Attributes:
        listener: Called with the status after every change.
        confirm: Returns whether to continue an unfinished sweep; called with its run folder and the number of
            configurations left.
        say: Called with a line about what happens before the search.
        stop: Returns why the sweep starts no further trial; empty while it may.
        finished: Called with rows of the trials table: those in the run folder at the start, then those of each
            configuration that ends.
    """

    listener: Callable[[Status], None] = lambda _: None
    confirm: Callable[[Path | str, int], bool] = lambda run, left: True
    say: Callable[[str], None] = lambda _: None
    stop: Callable[[], str] = lambda: ""
    finished: Callable[[Sequence[Mapping[str, Any]]], None] = lambda rows: None


QUIET = Callbacks()
"""Callbacks that do nothing."""
