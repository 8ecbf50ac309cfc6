"""Columns on how a trial steers the noise of its children: schedule, unequal children, trunk."""

from __future__ import annotations

from typing import Any

from trainables.noise import NOISE
from trainables.spec import PairSpec
from trainables.training.legs import Leg


def describe_dynamics(spec: PairSpec, leg: Leg) -> dict[str, Any]:
    """Return the columns `schedule_start`, `schedule_end`, `child_noise_ratio`, `trunk_noise_ratio` that apply.

    Args:
        spec: The trial.
        leg: Leg of child A.
    """
    columns: dict[str, Any] = {}
    if spec.noise_schedule and len(leg.stable):
        ends = (leg.stable[0], leg.stable[-1])
        noise = spec.learning_rate / spec.batch_size
        start, end = (leg.rate(step) / leg.size(step, spec.batch_size) / noise for step in ends)
        columns |= {"schedule_start": start, "schedule_end": end}
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
