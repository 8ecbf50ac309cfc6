"""Status of a running sweep, and the callbacks by which a driver reports to its caller."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.runner.cost.pace import Pace


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
        stage: Stage of the proposal that started last, before that of the first one: map, search or confirm; empty in a
            sweep without stages.
        stage_budget: Proposals of that stage.
        stages: Stage -> its finished proposals.
        waited: Time of free workers that waited for the results of others [s].
        workers: Proposals that may run at a time; None if unknown.
        device: Device of the trials; empty before the first result.
        pace: Times of the trials of this driver, for the time left.
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
    stage_budget: int = 0
    stages: Counter[str] = field(default_factory=lambda: Counter())
    waited: float = 0.0
    workers: int | None = None
    device: str = ""
    pace: Pace = field(default_factory=Pace)

    def seconds_left(self) -> float | None:
        """Return the expected wall time to the end [s]; None before the first result of this driver."""
        return self.pace.find_left(time.monotonic(), self.budget, self.done + self.failed, self.workers or 1)

    @property
    def stage_done(self) -> int:
        """Finished proposals of the stage."""
        return self.stages[self.stage]

    def show_stage(self, stage: str, size: int) -> None:
        """Note the stage of the configuration that starts, and the size of the stage."""
        self.stage, self.stage_budget = stage, size

    def note_done(self, stage: str) -> None:
        """Count a finished proposal of a stage."""
        self.done += 1
        self.stages[stage] += 1


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
