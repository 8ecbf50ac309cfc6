"""Noise schedules: the course of the noise over the stable phase of a child, relative to the noise of the trial."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainables.registry import Registry

Shape = Callable[[float, float, float, float], float]
NOISE_SCHEDULES: Registry[Shape] = Registry("noise schedule")
START, END, TURN = "start", "end", "turn"
BY = ("learning_rate", "batch_size")
"""What follows the course of the noise."""
LARGEST = 8
"""Largest batch of a schedule by the batch size over the trial's, which bounds the memory."""


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


def check_entries(options: Mapping[str, Any]) -> None:
    """Check that every entry of a noise schedule acts.

    Raises:
        ValueError: One does not.
    """
    kind = options.get("kind", "step")
    if kind == "flat" and END in options and float(options[END]) != float(options.get(START, 1)):
        raise ValueError(
            f"noise_schedule.end must be left out with kind flat, which does not change, got {options[END]}; "
            "choose another kind, or let the knob act `when` the kind is another"
        )
    if TURN in options and kind != "step":
        raise ValueError(
            f"noise_schedule.turn must be left out unless kind is step, got {options[TURN]} with {kind}; "
            "choose step, or let the knob act `when` the kind is step"
        )
    if TURN in options and not 0 < float(options[TURN]) < 1:
        raise ValueError(f"noise_schedule.turn must lie in (0, 1), since a step at an end is none, got {options[TURN]}")


def make_noise_schedule(options: Mapping[str, Any], stable: range) -> NoiseSchedule:
    """Return the noise schedule of a child.

    Args:
        options: `kind`, `start` and `end` (only their ratio counts), and `turn`; empty leaves the noise as it is.
        stable: Steps of the stable phase.
    """
    if not options or not len(stable):
        return NoiseSchedule(())
    shape = make_shape(options)
    values = [shape((i + 0.5) / len(stable)) for i in range(len(stable))]
    mean = math.fsum(values) / len(values)
    return NoiseSchedule(tuple(v / mean for v in values), stable.start)


def make_shape(options: Mapping[str, Any]) -> Callable[[float], float]:
    """Return the course of a noise schedule: place in [0, 1] of the stable phase -> noise, up to a factor."""
    shape = NOISE_SCHEDULES[options["kind"]]
    start, end, turn = (float(options.get(name, default)) for name, default in ((START, 1), (END, 1), (TURN, 0.5)))
    return lambda place: shape(place, start, end, turn)


@dataclass(frozen=True)
class BatchPlan:
    """Batch size and learning rate of every step of a child whose batch size follows a noise schedule.

    Attributes:
        sizes: Examples of every step.
        rates: Learning rate of every step.
        stable: Steps of the stable phase.
        ends: Number of steps at the end of every epoch.
    """

    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    stable: range
    ends: tuple[int, ...]

    def sizes_after(self, start: int) -> tuple[int, ...]:
        """Return the batch sizes of the epoch that begins after `start` steps; empty after the last one."""
        return self.sizes[start : next((end for end in self.ends if end > start), start)]


def plan_batches(
    options: Mapping[str, Any],
    factor: Callable[[float], float],
    stable: range,
    steps: int,
    per_epoch: int,
    batch_size: int,
    learning_rate: float,
) -> BatchPlan:
    """Return the batches of a child that sees as many examples as with `steps` batches of the trial's size.

    With s the course of the noise, a step takes about B/s examples, whole, at least min(2, B) and at most 8 B, and its
    learning rate takes the rest: eta_t = eta f s B_t/B, so that eta_t/B_t = f s eta/B exactly. f is the factor of
    warmup and decay. Both follow the examples seen, not the steps; the mean of s over the examples of the stable phase
    is 1. Batches do not cross the end of an epoch: towards it they share the rest evenly.

    Args:
        options: The field `noise_schedule`.
        factor: Step of a child with the trial's batch size, from 0 and not only whole, -> f.
        stable: Stable phase of that child.
        steps: Steps of that child.
        per_epoch: Steps of its epochs.
        batch_size: B of the trial.
        learning_rate: eta of the trial.

    Source: Smith et al. 2018, arXiv 1711.00489, section 2: a batch size times s for a learning rate over s keeps
    eta/B.
    """
    shape, size = make_shape(options), batch_size
    flat = make_noise_schedule(options, stable)
    first, length = stable.start, max(1, len(stable))
    mean = shape(0.5 / length) / flat.at(first)

    def course(middle: float) -> float:
        # the noise before the phase is that of its first step, after it that of its last one
        place = min(max(middle - first, 0.5), length - 0.5) / length
        return shape(place) / mean

    def scaled(seen: int, own: int) -> float:
        return own * course((seen + own / 2) / size)

    sizes: list[int] = []
    relative: list[float] = []
    factors: list[float] = []
    ends: list[int] = []
    seen, total = 0, steps * size
    while seen < total:
        left = min(total - seen, per_epoch * size - seen % (per_epoch * size))
        # the least batch with B_t s >= B, s at its middle
        wanted = 1 + bisect_left(range(1, min(left, LARGEST * size)), size, key=partial(scaled, seen))
        own = min(round(left / max(1, round(left / wanted))), LARGEST * size)
        own = min(left, max(own, min(2, size)))
        if left - own < min(2, size):  # a rest too small for a batch of its own
            own = left if left <= LARGEST * size else own - 1
        middle = (seen + own / 2) / size
        sizes.append(own)
        relative.append(course(middle))
        factors.append(factor(middle - 0.5))
        seen += own
        if seen % (per_epoch * size) == 0 or seen == total:
            ends.append(len(sizes))
    inside = [i for i, f in enumerate(factors) if f >= 1 - 1e-9]
    held = range(inside[0], inside[-1] + 1) if inside else range(0)
    # rounding moves the mean a little; the learning rate takes this, too
    mean = math.fsum(relative[i] * sizes[i] for i in held) / max(1, sum(sizes[i] for i in held)) if inside else 1.0
    rates = [learning_rate * f * s / mean * b / size for f, s, b in zip(factors, relative, sizes, strict=True)]
    return BatchPlan(tuple(sizes), tuple(rates), held, tuple(ends))
