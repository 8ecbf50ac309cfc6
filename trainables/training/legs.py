"""Legs: stretches of training, with the learning rate and the batch size of every step."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from trainables.spec import PairSpec
from trainables.tasks.batches import steps_per_epoch
from trainables.training.noise_schedules import BatchPlan, make_noise_schedule, plan_batches
from trainables.training.optimizers import family
from trainables.training.schedules import SCHEDULES, constant


@dataclass(frozen=True)
class Leg:
    """One stretch of training.

    Attributes:
        steps: Number of steps.
        rate: Step -> learning rate.
        stable: Steps at the stable learning rate, between warmup and decay.
        plan: Batch size of every step; None if all steps take the trial's.
    """

    steps: int
    rate: Callable[[int], float]
    stable: range = range(0)
    plan: BatchPlan | None = None

    def size(self, step: int, batch_size: int) -> int:
        """Return the examples of a step, from 0; `batch_size` is that of the trial."""
        return self.plan.sizes[step] if self.plan else batch_size

    def epoch_of(self, step: int, per_epoch: int) -> int:
        """Return the epoch, from 1, of the last of `step` steps; `per_epoch` is the steps of one without a plan."""
        return bisect_left(self.plan.ends, step) + 1 if self.plan else math.ceil(step / per_epoch)

    def passed(self, step: int, batch_size: int) -> int:
        """Return the examples of the first `step` steps."""
        return sum(self.plan.sizes[:step]) if self.plan else step * batch_size


def child_leg(spec: PairSpec, examples: int) -> Leg:
    """Return the leg of a child that trains on `examples` examples; after a trunk it has no second warmup.

    Raises:
        ValueError: The batch is larger than the training set.
    """
    total = spec.steps or steps_per_epoch(examples, spec.batch_size) * spec.epochs
    warmup = 0.0 if spec.protocol == "branch" else spec.warmup
    schedule = SCHEDULES[spec.schedule]

    def factor(step: float) -> float:
        return schedule(step, total, warmup, spec.decay)

    stable, options = _find_stable(factor, total), spec.noise_schedule
    check_steering(spec)
    if len(stable) and options.get("by") == "batch_size":
        per_epoch = steps_per_epoch(examples, spec.batch_size)
        plan = plan_batches(options, factor, stable, total, per_epoch, spec.batch_size, spec.learning_rate)
        return Leg(len(plan.sizes), lambda step: plan.rates[step], plan.stable, plan)
    noise = make_noise_schedule(options, stable)
    return Leg(total, lambda step: spec.learning_rate * factor(step) * noise.at(step), stable)


def _find_stable(factor: Callable[[int], float], steps: int) -> range:
    # from both ends, since most steps lie between them
    first = next((step for step in range(steps) if factor(step) >= 1 - 1e-9), steps)
    last = next((step for step in reversed(range(first, steps)) if factor(step) >= 1 - 1e-9), first - 1)
    return range(first, last + 1)


def check_steering(spec: PairSpec) -> None:
    """Check that the noise of the trial's optimizer follows eta/B where a field relies on it.

    Raises:
        ValueError: It does not.
    """
    if family(spec.optimizer) in ("sgd", "sgdw"):
        return
    if spec.servo:
        raise ValueError(
            "servo must be empty unless the optimizer is of the family of SGD, whose noise follows η/B, got "
            f"{spec.optimizer}"
        )
    if spec.noise_schedule.get("by") == "batch_size":
        raise ValueError(
            "noise_schedule.by must be learning_rate unless the optimizer is of the family of SGD, whose noise follows "
            f"η/B, got 'batch_size' with {spec.optimizer}"
        )


def trunk_leg(spec: PairSpec) -> Leg:
    """Return the leg of the trunk: warmup over its own steps, then the stable learning rate of the trial."""
    return Leg(
        spec.branch_step, lambda step: spec.learning_rate * constant(step, spec.branch_step, spec.warmup, 0.0)
    )  # fmt: skip
