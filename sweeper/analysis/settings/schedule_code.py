"""Schedule of settings as Python code that needs torch alone: a factor of the learning rate for `LambdaLR`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WARM = "min(1.0, (step + 1) / warm) if warm else 1.0"
_BODIES: Mapping[str, tuple[str, ...]] = {
    "constant": (f"return {_WARM}",),
    "wsd": (
        "if fall and step >= steps - fall:",
        "    return 1.0 - math.sqrt((step - steps + fall) / fall)",
        f"return {_WARM}",
    ),
    "cosine": (
        "if step < warm:",
        "    return (step + 1) / warm",
        "return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))",
    ),
}
"""Name in `trainables.training.schedules.SCHEDULES` -> body of its function of `step`, with the same formula."""
_COURSES: Mapping[str, str] = {
    "flat": "1.0",
    "linear": "start + (end - start) * place",
    "cosine": "end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * place))",
    "step": "start if place < turn else end",
}
"""Kind of a noise schedule -> its noise at a `place` of the stable phase, up to a factor."""


def write_schedule(schedule: str, warmup: float, decay: float, course: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return lines of code that define the factor of the learning rate, and the name of the function.

    The code uses `math`, and `steps`, the number of optimizer steps.

    Args:
        schedule: Name of the schedule.
        warmup: Share of the steps in the warmup.
        decay: Share of the steps in the decay.
        course: Noise schedule that the learning rate follows; empty for none.

    Raises:
        KeyError: There is no code for the schedule or the kind of the noise schedule.
    """
    falls = [f"fall = round({decay!r} * steps)  # steps of the decay"] if schedule == "wsd" else []
    lines = [
        f"warm = round({warmup!r} * steps)  # steps of the warmup, of all `steps` optimizer steps",
        *falls,
        "",
        "",
        "def factor(step):  # of the learning rate",
        *(f"    {line}" for line in _BODIES[schedule]),
    ]
    return (lines, "factor") if not course else (lines + _write_course(course), "steered")


def _write_course(course: Mapping[str, Any]) -> list[str]:
    defaults = {"start": 1.0, "end": 1.0, "turn": 0.5}
    ends = ", ".join(repr(float(course.get(name, value))) for name, value in defaults.items())
    return [
        "",
        "",
        f"start, end, turn = {ends}  # noise of the stable phase: its start, its end, and the place of a step",
        "stable = [step for step in range(steps) if factor(step) >= 1 - 1e-9]",
        "length = stable[-1] - stable[0] + 1 if stable else 0",
        "places = [(i + 0.5) / length for i in range(length)]",
        f"course = [{_COURSES[course['kind']]} for place in places]",
        "",
        "",
        "def steered(step):  # the mean of the noise over the stable phase stays",
        "    if not course:",
        "        return factor(step)",
        "    return factor(step) * course[min(max(step - stable[0], 0), length - 1)] * length / sum(course)",
    ]
