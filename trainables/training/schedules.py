"""Learning-rate schedules: factors of the stable learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Callable

from trainables.registry import Registry

Schedule = Callable[[float, int, float, float], float]
SCHEDULES: Registry[Schedule] = Registry("schedule")


def _warm(step: float, steps: int, warmup: float) -> float:
    length = round(warmup * steps)
    return min(1.0, (step + 1) / length) if length else 1.0


@SCHEDULES.register("wsd")
def wsd(step: float, steps: int, warmup: float, decay: float) -> float:
    """Return the factor of linear warmup, a stable phase, then a decay of 1 - sqrt((t - t_hold) / T_decay).

    Args:
        step: Step, from 0; between two steps, too.
        steps: Number of steps T.
        warmup: Share of the steps in the warmup.
        decay: Share of the steps in the decay, T_decay / T.

    Returns:
        Factor in [0, 1].

    Source: Hägele et al. 2024, arXiv 2405.18392, the 1-sqrt cooldown.
    """
    length = round(decay * steps)
    hold = steps - length
    if length and step >= hold:
        return 1.0 - math.sqrt((step - hold) / length)
    return _warm(step, steps, warmup)


@SCHEDULES.register("constant")
def constant(step: float, steps: int, warmup: float, decay: float) -> float:
    """Return the factor of linear warmup, then 1."""
    return _warm(step, steps, warmup)


@SCHEDULES.register("cosine")
def cosine(step: float, steps: int, warmup: float, decay: float) -> float:
    """Return the factor of linear warmup, then half a cosine down to 0.

    Source: Loshchilov & Hutter 2016, arXiv 1608.03983, eq. 5.
    """
    start = round(warmup * steps)
    if step < start:
        return _warm(step, steps, warmup)
    return 0.5 * (1.0 + math.cos(math.pi * (step - start) / max(1, steps - start)))


def rung_steps(steps: int, per_epoch: int, rungs: int) -> list[int]:
    """Return the steps of a child's rungs: evenly spaced, at ends of epochs if the child has enough epochs.

    Args:
        steps: Steps of the child.
        per_epoch: Steps of one epoch.
        rungs: Number of rungs, without the end; a child with few steps has fewer.
    """
    unit = per_epoch if steps >= (rungs + 1) * per_epoch else 1
    candidates = {unit * round(steps * r / (rungs + 1) / unit) for r in range(1, rungs + 1)}
    return sorted(s for s in candidates if 0 < s < steps)
