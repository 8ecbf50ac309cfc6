"""Schedules as code with torch alone: the same learning rates as in training, step by step."""

import math
from itertools import product
from typing import Any

import pytest

from sweeper.analysis.settings.schedule_code import write_schedule
from trainables.spec import PairSpec
from trainables.training.legs import child_leg
from trainables.training.noise_schedules import NOISE_SCHEDULES
from trainables.training.schedules import SCHEDULES

SHARES = [(0.0, 0.0), (0.05, 0.2), (0.3, 0.7), (0.5, 0.0), (0.0, 1.0)]
COURSES: list[dict[str, Any]] = [
    {},
    *({"kind": kind, "start": 2, "end": 0.5} for kind in NOISE_SCHEDULES if kind != "flat"),
    {"kind": "step", "end": 3.0, "turn": 0.25},
    {"kind": "flat"},
]


@pytest.mark.parametrize("steps", [1, 2, 20, 333])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_code_gives_the_learning_rates_of_training(schedule: str, steps: int) -> None:
    # a cosine has no stable phase, so no course of the noise
    for (warmup, decay), course in product(SHARES, COURSES if schedule != "cosine" else [{}]):
        lines, name = write_schedule(schedule, warmup, decay, course)
        scope: dict[str, Any] = {"math": math, "steps": steps}
        exec(compile("\n".join(lines), "schedule", "exec"), scope)  # the test runs what users paste
        more = {"schedule": schedule, "warmup": warmup, "decay": decay, "noise_schedule": course}
        leg = child_leg(PairSpec("digits", "cnn", 1.0, 16, steps=steps, **more), 720)
        written = [scope[name](step) for step in range(steps)]
        assert written == pytest.approx([leg.rate(step) for step in range(steps)], rel=1e-12, abs=1e-15)
        assert max(map(len, lines)) <= 120
