"""Legs: stretches of training, with the learning rate of every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainables.spec import PairSpec
from trainables.tasks.batches import steps_per_epoch
from trainables.training.noise_schedules import make_noise_schedule
from trainables.training.schedules import SCHEDULES, constant


@dataclass(frozen=True)
class Leg:
    """One stretch of training.

    Attributes:
        steps: Number of steps.
        rate: Step -> learning rate.
        stable: Steps at the stable learning rate, between warmup and decay.
    """

    steps: int
    rate: Callable[[int], float]
    stable: range = range(0)


def child_leg(spec: PairSpec, examples: int) -> Leg:
    """Return the leg of a child that trains on `examples` examples; after a trunk it has no second warmup.

    Raises:
        ValueError: The batch is larger than the training set.
    """
    total = spec.steps or steps_per_epoch(examples, spec.batch_size) * spec.epochs
    warmup = 0.0 if spec.protocol == "branch" else spec.warmup
    schedule = SCHEDULES[spec.schedule]

    def factor(step: int) -> float:
        return schedule(step, total, warmup, spec.decay)

    # from both ends, since most steps lie between them
    first = next((step for step in range(total) if factor(step) >= 1 - 1e-9), total)
    last = next((step for step in reversed(range(first, total)) if factor(step) >= 1 - 1e-9), first - 1)
    stable = range(first, last + 1)
    noise = make_noise_schedule(spec.noise_schedule, stable)
    return Leg(total, lambda step: spec.learning_rate * factor(step) * noise.at(step), stable)


def trunk_leg(spec: PairSpec) -> Leg:
    """Return the leg of the trunk: warmup over its own steps, then the stable learning rate of the trial."""
    return Leg(
        spec.branch_step, lambda step: spec.learning_rate * constant(step, spec.branch_step, spec.warmup, 0.0)
    )  # fmt: skip
