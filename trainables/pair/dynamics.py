"""Columns on how a trial steers the noise of its children: schedule, servo, unequal children, trunk."""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import Any

from trainables.noise import NOISE
from trainables.spec import PairSpec
from trainables.training.legs import Leg
from trainables.training.servo import Steering


def describe_dynamics(spec: PairSpec, leg: Leg, steering: Sequence[Steering] = ()) -> dict[str, Any]:
    """Return the columns on the course of the noise, on unequal children and on the trunk that apply.

    Args:
        spec: The trial.
        leg: Leg of child A.
        steering: What a servo did to each child.
    """
    columns: dict[str, Any] = {}
    course: list[float] = []
    if (spec.noise_schedule or spec.servo) and len(leg.stable):
        first, rate = steering[0] if steering else Steering(), spec.learning_rate
        course = [leg.rate(t) * first.at(t) / rate for t in leg.stable]
        if leg.plan:
            nominal = rate / spec.batch_size
            course = [leg.rate(t) * first.at(t) / leg.plan.sizes[t] / nominal for t in leg.stable]
        columns |= {"schedule_start": course[0], "schedule_end": course[-1]}
    if spec.servo and course:
        sizes = [leg.size(t, spec.batch_size) for t in leg.stable]
        columns["schedule_mean"] = sum(map(mul, course, sizes)) / sum(sizes)
        columns["servo_off_step"] = min((s.off for s in steering if s.off is not None), default=None)
    if spec.child_b:
        a, b = (_linear_noise(s) for s in spec.child_specs())
        columns["child_noise_ratio"] = b / a
    if spec.protocol == "branch":
        columns["trunk_noise_ratio"] = _linear_noise(spec.trunk_spec()) / _linear_noise(spec)
    return columns


def _linear_noise(spec: PairSpec) -> float:
    noise = NOISE["linear"].predict({"learning_rate": spec.learning_rate, "batch_size": spec.batch_size})
    assert noise is not None, "it is defined by these two"
    return noise
