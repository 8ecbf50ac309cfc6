"""Rungs: intermediate scores of a trial, from copies of its children after a short anneal and a merge.

They do not change the trial's numbers: the children stay where they are, and rungs use separate random streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.merging.methods import MERGES
from trainables.pair.setup import Lab
from trainables.result import RungRow
from trainables.spec import PairSpec
from trainables.tasks.batches import steps_per_epoch
from trainables.tasks.evaluation import Score, finite, recalibrate, score_weights
from trainables.tasks.tasks import Weights
from trainables.training.legs import Leg
from trainables.training.loop import Course, Seeds
from trainables.training.noise_schedules import BatchPlan
from trainables.training.ranks import ranks
from trainables.training.schedules import rung_steps, wsd

ANNEAL_SHARE = 0.1
"""Steps of all shortened anneals of a child as a share of its training steps."""
RECALIBRATION_BATCHES = 8


def anneal_leg(spec: PairSpec, leg: Leg, step: int, rungs: int) -> Leg:
    """Return the shortened anneal of a child after `step` steps: the decay of its schedule, 1 - sqrt.

    It has the length of the decay of a trial with `step` steps, limited by its part of `ANNEAL_SHARE`. Schedules
    without a decay, and children in their decay, have no anneal.
    """
    decays = spec.schedule == "wsd" and step in leg.stable
    length = min(spec.decay * step, ANNEAL_SHARE * leg.steps / rungs) if decays else 0
    length = max(1, round(length)) if length else 0
    rate = leg.rate(step)
    # with the child's batches at this step, so that its noise continues
    plan = BatchPlan((leg.plan.sizes[step],) * length, (), range(0), (length,)) if leg.plan and length else None
    return Leg(length, lambda done: rate * wsd(done, length, 0.0, 1.0), plan=plan)


@dataclass
class Rungs:
    """Computes the rungs of the trials of one stack.

    Args:
        specs: The trials.
        lab: What the trials share.
        rungs: Number of rungs before the end.

    Attributes:
        rows: Rows so far, by trial.

    Raises:
        ValueError: Several processes train each child.
    """

    specs: Sequence[PairSpec]
    lab: Lab
    rungs: int
    rows: list[list[RungRow]] = field(default_factory=lambda: [])

    def __post_init__(self) -> None:
        if self.rungs and ranks().size > 1:
            raise ValueError(f"rungs must be 0 if several processes train a child, got {self.rungs}")
        self.rows = [[] for _ in self.specs]

    def steps(self, course: Course) -> list[int]:
        """Return the steps of a course's rungs."""
        per_epoch = steps_per_epoch(min(d.examples for d in course.training.data), self.specs[0].batch_size)
        if course.leg.plan:  # whose epochs have different steps
            per_epoch = course.leg.steps
        return rung_steps(course.leg.steps, per_epoch, self.rungs)

    def take(self, rung: int, courses: Sequence[Course]) -> None:
        """Anneal, merge and score copies of the children of every trial, and add the rows."""
        children = self._anneal(rung, courses)
        scores = [self._score_merge(i, children) for i in range(len(self.specs))]
        first, seconds = courses[0], self.lab.clock.total() / len(self.specs)
        per_epoch = steps_per_epoch(first.training.data[0].examples, self.specs[0].batch_size)
        for spec, trial_score, rows in zip(self.specs, scores, self.rows, strict=True):
            rows.append(
                RungRow(
                    digest=spec.digest,
                    config=spec.config,
                    repeat=spec.repeat,
                    rung=rung,
                    step=first.done,
                    steps=first.leg.steps,
                    epoch=first.leg.epoch_of(first.done, per_epoch),
                    device_seconds=seconds,
                    **finite({"merged_loss_val": trial_score.loss, "merged_accuracy_val": trial_score.accuracy}),
                )
            )

    def snapshot(self) -> list[list[dict[str, Any]]]:
        """Return the rows so far as plain values for `restore`."""
        return [[asdict(row) for row in rows] for rows in self.rows]

    def restore(self, state: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Load the rows that `snapshot` returned."""
        self.rows = [[RungRow(**row) for row in rows] for rows in state]

    def summary(self) -> dict[str, object]:
        """Return the last rung as one record of means over the trials, None if one value is not finite."""
        last = [rows[-1] for rows in self.rows]
        record: dict[str, object] = {n: getattr(last[0], n) for n in ("repeat", "rung", "step", "steps", "epoch")}
        for name in ("merged_loss_val", "merged_accuracy_val"):
            values = [getattr(row, name) for row in last]
            record[name] = None if None in values else sum(values) / len(values)
        return record | {"device_seconds": sum(row.device_seconds for row in last)}

    def _anneal(self, rung: int, courses: Sequence[Course]) -> list[Weights]:
        annealed: list[Weights] = []
        members = self.specs[0].members
        for course in courses:
            names = [
                (self.specs[c // members], c % members)
                for c in range(len(annealed), len(annealed) + len(course.training.seeds))
            ]
            if len(self.lab.tasks) == 1 and all(member > 1 for _, member in names):
                # of several children of one task the first two are merged
                annealed += [{} for _ in names]
                continue
            role = [(spec, f"rung/{rung}/{member}") for spec, member in names]
            seeds = [Seeds(spec.stream(f"{r}/order"), spec.stream(f"{r}/augment")) for spec, r in role]
            annealed += course.anneal(anneal_leg(self.specs[0], course.leg, course.done, self.rungs), seeds)
        return annealed

    def _score_merge(self, trial: int, children: Sequence[Weights]) -> Score:
        spec, tasks = self.specs[trial], self.lab.tasks
        first, task = spec.members * trial, tasks[0]
        pair = children[first : first + max(2, len(tasks))]
        merged = MERGES["linear"](task.shared(task.base), [task.shared(c) for c in pair], 1 / len(pair))
        scores: list[Score] = []
        for task, child in zip(tasks, pair, strict=False):
            batches = self.lab.recalibration_batches(spec, task, RECALIBRATION_BATCHES)
            weights = recalibrate(task.model, task.mount(task.whole(merged, child)), batches)
            scores.append(score_weights(task.model, weights, *task.data.scored("val")))
        return Score(sum(s.loss for s in scores) / len(scores), sum(s.accuracy for s in scores) / len(scores))
