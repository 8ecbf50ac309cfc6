"""Children of the trials of one stack: names, start weights, training from rung to rung."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trainables.measurement.monitor import Watch
from trainables.pair.rungs import Rungs
from trainables.pair.setup import Lab, needs_moments
from trainables.runtime import Report
from trainables.spec import SEVERAL_TASKS, PairSpec
from trainables.tasks.tasks import Weights
from trainables.training.base import own_base, trunk
from trainables.training.checkpointing import Keeper, train_with_pauses
from trainables.training.child import Child, Epoch
from trainables.training.loop import Course, Seeds, Training, make_courses
from trainables.training.members import OptimizerState
from trainables.training.windows import read_window


def child_names(members: int) -> list[str]:
    """Return the names of a trial's children: a to z, then m26, m27 and so on."""
    return [chr(ord("a") + i) if i < 26 else f"m{i}" for i in range(members)]


def _make_seeds(spec: PairSpec, child: int, name: str) -> Seeds:
    if spec.pairing == "antithetic":
        # one order for all children, of which each takes its half first
        return Seeds(spec.stream("pair/order"), spec.stream(f"{name}/augment"), child % 2)
    return Seeds(spec.stream(f"{name}/order"), spec.stream(f"{name}/augment"))


@dataclass
class Children:
    """The children of all trials of one stack, trial by trial.

    Attributes:
        courses: Courses that train the children; empty if their trunk diverged.
        lost: Step at which the trunk diverged; None if it did not.
        before: Seconds of the phase `train` for the trunk.
        together: Whether all children train at the same time, in separate processes.
        rung: Number of rungs so far.
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
        """Make the courses; train a trunk first if the protocol needs it."""
        start, state = self._start()
        if self.lost is None:
            self.before = self.lab.clock.of("train")
            self.courses = self._courses(start, state)

    def train(self, at_rung: Callable[[int], None]) -> None:
        """Train all children to each rung, call `at_rung` there, then train them to their end."""
        if self.lost is not None:
            return
        steps = [self.rungs.steps(c) for c in self.courses]
        for rung in range(self.rung, min(map(len, steps))):
            self._advance([targets[rung] for targets in steps])
            if all(course.children for course in self.courses):  # all of them diverged
                return
            at_rung(rung + 1)
            self.rung = rung + 1
        self._advance([course.leg.steps for course in self.courses])

    def _advance(self, targets: Sequence[int]) -> None:
        # one after the other or all at once, with pauses for checkpoints
        pairs = list(zip(self.courses, targets, strict=True))
        for group in [pairs] if self.together else [[pair] for pair in pairs]:
            for steps in train_with_pauses(group, self.keeper):
                if self.keeper:
                    self.keeper.note_pause(steps, self.snapshot)

    def snapshot(self) -> dict[str, Any]:
        """Return the state of training for `restore`."""
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
        """Continue from `snapshot`; its seconds count."""
        for course, course_state in zip(self.courses, state["courses"], strict=True):
            course.restore(course_state)
        self.watch.restore(state["measured"])
        self.rungs.restore(state["rungs"])
        self.rung, self.before, self.lab.started = state["rung"], state["before"], state["started"]
        # the trunk of this process comes from the cache and counts once
        self.lab.clock.add_seconds(state["seconds"], without=self.lab.clock.of("train"))

    def _start(self) -> tuple[Weights, OptimizerState | None]:
        task = self.lab.tasks[0]
        if self.specs[0].protocol != "branch":
            return task.start(task.base), None
        start = trunk(self.specs[0], task, self.lab.runtime, self.report)
        self.lost, task.base = start.diverged_at, task.fold(start.weights)
        return start.weights, start.state

    def _courses(self, start: Weights, state: OptimizerState | None) -> list[Course]:
        first, lab, watch = self.specs[0], self.lab, self.watch
        names = child_names(first.members)
        seeds = [_make_seeds(s, i, m) for s in self.specs for i, m in enumerate(names)]
        if first.pair_kind not in SEVERAL_TASKS and not first.child_b and first.protocol != "scratch":
            return make_courses(
                Training(
                    first, lab.tasks[0].trainee, start, lab.data * len(self.specs), seeds, watch.legs[0], state,
                    keep_moments=needs_moments(first), window=read_window(first.window), fold=lab.tasks[0].fold,
                    on_epoch=self._on_epoch, on_step=watch.on_step,
                )
            )  # fmt: skip
        courses: list[Course] = []
        for i, seed in enumerate(seeds):
            task, data = lab.children[i % first.members], lab.data[i % first.members]
            own, begin = replace(watch.specs[i], stack=1), start
            if first.protocol == "scratch":
                with lab.clock.phase("base"):
                    begin = own_base(self.specs[i // first.members], names[i % first.members], task, lab.runtime)
                # measurements that need a base take the start of the first child
                task.base = begin if i == 0 else task.base
            elif not first.child_b:
                begin = task.start(task.base)
            courses += make_courses(
                Training(
                    own, task.trainee, begin, [data], [seed],
                    watch.legs[i], state, keep_moments=needs_moments(first), window=read_window(first.window),
                    fold=task.fold, first=i,
                    on_epoch=self._on_epoch, on_step=watch.on_step,
                )
            )  # fmt: skip
        return courses

    def _on_epoch(self, child: int, epoch: Epoch) -> None:
        spec = self.specs[child // self.specs[0].members]
        leg = self.watch.legs[0]
        epochs = math.ceil(leg.passed(leg.steps, spec.batch_size) / self.lab.data[0].examples)
        self.report({"repeat": spec.repeat, "member": child_names(spec.members)[child % spec.members],
                     "epoch": epoch.epoch, "epochs": max(epoch.epoch, epochs), "val_loss": epoch.val.loss})  # fmt: skip

    def current_children(self) -> list[Child]:
        """Return the children with their histories so far, and with weights if they are trained."""
        if self.lost is not None:
            weights = dict(self.lab.tasks[0].base)
            return [Child(weights, [], self.lost) for s in self.specs for _ in range(s.members)]
        return [
            child
            for c in self.courses
            for child in c.children
            or [Child({}, list(h), lost, steering=c.steering) for h, lost in zip(c.histories, c.diverged, strict=True)]
        ]

    @property
    def done(self) -> int:
        """Steps of the first child so far."""
        return self.courses[0].done if self.courses else 0

    @property
    def step_seconds(self) -> float | None:
        """Training time per optimizer step so far [s]; None before the first step."""
        steps = sum(c.done for c in self.courses)
        return (self.lab.clock.of("train") - self.before) / steps if steps else None
