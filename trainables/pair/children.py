"""The children of the trials of one stack: their names, where they start, and their way through the rungs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainables.measurement.monitor import Watch
from trainables.pair.rungs import Rungs
from trainables.pair.setup import Lab
from trainables.runtime import Report
from trainables.spec import PairSpec
from trainables.tasks.tasks import Weights
from trainables.training.base import trunk
from trainables.training.checkpointing import Keeper, train_with_pauses
from trainables.training.loop import Child, Course, Epoch, Seeds, Training, make_courses
from trainables.training.members import OptimizerState


def child_names(members: int) -> list[str]:
    """Return the names of a trial's children: a, b, c ..."""
    return [chr(ord("a") + i) if i < 26 else f"m{i}" for i in range(members)]


@dataclass
class Children:
    """The children of all trials of one stack, in order: those of the first trial, those of the second ...

    Attributes:
        courses: What trains them; empty where their trunk diverged.
        lost: Step at which the trunk diverged.
        before: Seconds of the phase `train` that went into a trunk.
        together: Whether all children train at the same time, each in a process of its own.
        rung: Rungs so far.
    """

    specs: Sequence[PairSpec]
    lab: Lab
    watch: Watch
    rungs: Rungs
    report: Report
    keeper: Keeper | None = None
    courses: list[Course] = field(default_factory=lambda: [])
    lost: int | None = None
    before: float = 0.0
    together: bool = False
    rung: int = 0

    def open(self) -> None:
        """Make their courses; a trunk is trained first."""
        start, state = self._start()
        if self.lost is None:
            self.before = self.lab.clock.of("train")
            self.courses = self._courses(start, state)

    def train(self, at_rung: Callable[[int], None]) -> None:
        """Train them to their end, all of them to a rung before any goes on; `at_rung` is called there."""
        if self.lost is not None:
            return
        ways = [self.rungs.steps(c) for c in self.courses]
        for rung in range(self.rung, min(len(way) for way in ways)):
            self._advance([way[rung] for way in ways])
            if all(course.children for course in self.courses):  # all of them diverged
                return
            at_rung(rung + 1)
            self.rung = rung + 1
        self._advance([course.leg.steps for course in self.courses])

    def _advance(self, targets: Sequence[int]) -> None:
        # one after the other, or all of them at once; with pauses where checkpoints are written
        ways = list(zip(self.courses, targets, strict=True))
        for group in [ways] if self.together else [[way] for way in ways]:
            for steps in train_with_pauses(group, self.keeper):
                if self.keeper:
                    self.keeper.note_pause(steps, self.snapshot)

    def snapshot(self) -> dict[str, Any]:
        """Return where all of it stands, for `restore`."""
        self.lab.clock.total()
        return {
            "courses": [c.snapshot() for c in self.courses],
            "measured": self.watch.snapshot(),
            "rungs": self.rungs.snapshot(),
            "rung": self.rung,
            "seconds": dict(self.lab.clock.seconds),
            "before": self.before,
            "started": self.lab.started,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` returned; the time it took until then counts."""
        for course, own in zip(self.courses, state["courses"], strict=True):
            course.restore(own)
        self.watch.restore(state["measured"])
        self.rungs.restore(state["rungs"])
        self.rung, self.before, self.lab.started = state["rung"], state["before"], state["started"]
        # a trunk is not trained again, and counts once
        self.lab.clock.took(state["seconds"], without=self.lab.clock.of("train"))

    def _start(self) -> tuple[Weights, OptimizerState | None]:
        task = self.lab.tasks[0]
        if self.specs[0].protocol != "branch":
            return task.base, None
        grown = trunk(self.specs[0], task, self.lab.runtime, self.report)
        self.lost, task.base = grown.diverged_at, grown.weights
        return grown.weights, grown.state

    def _courses(self, start: Weights, state: OptimizerState | None) -> list[Course]:
        first, lab, watch = self.specs[0], self.lab, self.watch
        names = child_names(first.members)
        seeds = [Seeds(s.stream(f"{m}/order"), s.stream(f"{m}/augment")) for s in self.specs for m in names]
        if first.pair_kind != "two_task":
            return make_courses(
                Training(
                    first, lab.tasks[0].model, start, lab.data * len(self.specs), seeds, watch.legs[0], state,
                    on_epoch=self._on_epoch, on_step=watch.on_step,
                )
            )  # fmt: skip
        courses: list[Course] = []
        for i, seed in enumerate(seeds):
            task = lab.tasks[i % 2]
            courses += make_courses(
                Training(
                    replace(first, stack=1), task.model, task.base, [task.data], [seed], watch.legs[i], first=i,
                    on_epoch=self._on_epoch, on_step=watch.on_step,
                )
            )  # fmt: skip
        return courses

    def _on_epoch(self, child: int, epoch: Epoch) -> None:
        spec = self.specs[child // self.specs[0].members]
        epochs = math.ceil(self.watch.legs[0].steps * spec.batch_size / self.lab.data[0].examples)
        self.report({"repeat": spec.repeat, "member": child_names(spec.members)[child % spec.members],
                     "epoch": epoch.epoch, "epochs": max(epoch.epoch, epochs), "val_loss": epoch.val.loss})  # fmt: skip

    def so_far(self) -> list[Child]:
        """Return the children with their histories until now; with weights where they are at their end."""
        if self.lost is not None:
            weights = dict(self.lab.tasks[0].base)
            return [Child(weights, [], self.lost) for s in self.specs for _ in range(s.members)]
        return [
            child
            for c in self.courses
            for child in c.children
            or [Child({}, list(h), lost) for h, lost in zip(c.histories, c.diverged, strict=True)]
        ]

    @property
    def done(self) -> int:
        """Steps of the first child until now."""
        return self.courses[0].done if self.courses else 0

    @property
    def step_seconds(self) -> float | None:
        """Training time per optimizer step until now; None before the first."""
        steps = sum(c.done for c in self.courses)
        return (self.lab.clock.of("train") - self.before) / steps if steps else None
