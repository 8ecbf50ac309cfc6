"""Columns on how a trial steers the noise of its children: schedule and unequal children."""

from __future__ import annotations

from typing import Any

from trainables.noise import NOISE
from trainables.spec import PairSpec
from trainables.training.legs import Leg


def describe_dynamics(spec: PairSpec, leg: Leg) -> dict[str, Any]:
    """Return the columns `schedule_start`, `schedule_end` and `child_noise_ratio`, where the trial sets them.

    Args:
        spec: The trial.
        leg: Leg of child A.
    """
    columns: dict[str, Any] = {}
    if spec.noise_schedule and len(leg.stable):
        ends = (leg.stable[0], leg.stable[-1])
        start, end = (leg.rate(step) / spec.learning_rate for step in ends)
        columns |= {"schedule_start": start, "schedule_end": end}
    if spec.child_b:
        settings = [{"learning_rate": s.learning_rate, "batch_size": s.batch_size} for s in spec.child_specs()]
        a, b = (NOISE["linear"].predict(s) for s in settings)
        columns["child_noise_ratio"] = b / a
    return columns
