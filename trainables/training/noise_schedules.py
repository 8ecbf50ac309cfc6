"""Noise schedules: the course of the noise over the stable phase of a child, relative to the noise of the trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trainables.registry import Registry

Shape = Callable[[float, float, float, float], float]
NOISE_SCHEDULES: Registry[Shape] = Registry("noise schedule")
START, END, TURN = "start", "end", "turn"


@NOISE_SCHEDULES.register("flat")
def flat(place: float, start: float, end: float, turn: float) -> float:
    """Return 1: the noise stays."""
    return 1.0


@NOISE_SCHEDULES.register("linear")
def linear(place: float, start: float, end: float, turn: float) -> float:
    """Return the straight line from `start` to `end` at a place in [0, 1] of the stable phase."""
    return start + (end - start) * place


@NOISE_SCHEDULES.register("cosine")
def cosine(place: float, start: float, end: float, turn: float) -> float:
    """Return half a cosine from `start` to `end` at a place in [0, 1] of the stable phase."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * place))


@NOISE_SCHEDULES.register("step")
def step(place: float, start: float, end: float, turn: float) -> float:
    """Return `start` before the place `turn` of the stable phase, `end` from there on."""
    return start if place < turn else end


@dataclass(frozen=True)
class NoiseSchedule:
    """Factors of the learning rate, and so of the noise eta / (B (1 - mu)), with mean 1 over the stable phase.

    The noise of a trial is thus the mean of its noise over the stable phase, whatever the schedule. Before the phase
    the factor is that of its first step, after it that of its last one.

    Attributes:
        factors: Factor of every step of the stable phase.
        first: Number of the first of these steps.
    """

    factors: tuple[float, ...]
    first: int = 0

    def at(self, step: int) -> float:
        """Return the factor at a step, from 0."""
        if not self.factors:
            return 1.0
        return self.factors[min(max(step - self.first, 0), len(self.factors) - 1)]


def make_noise_schedule(options: Mapping[str, Any], stable: range) -> NoiseSchedule:
    """Return the noise schedule of a child.

    Args:
        options: `kind`, `start` and `end` (only their ratio counts), and `turn`; empty leaves the noise as it is.
        stable: Steps of the stable phase.
    """
    if not options or not len(stable):
        return NoiseSchedule(())
    shape = NOISE_SCHEDULES[options["kind"]]
    start, end, turn = (float(options.get(name, default)) for name, default in ((START, 1), (END, 1), (TURN, 0.5)))
    values = [shape((i + 0.5) / len(stable), start, end, turn) for i in range(len(stable))]
    mean = math.fsum(values) / len(values)
    return NoiseSchedule(tuple(v / mean for v in values), stable.start)
