"""Servo on the measured noise: the learning rate holds eta tr Sigma / (B (1 - mu)) while tr Sigma changes.

tr Sigma comes from the gradients of the training itself, which cost nothing more: those of two successive steps have
independent noise, E |g_t - g_{t+1}|^2 = tr Sigma (1/B_t + 1/B_{t+1}), for batches without replacement, too. What the
step between them changes of the mean gradient adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainables.training.ranks import Ranks

ALONE = Ranks()
WINDOW = 16
"""Steps before a correction whose gradients count, at most; an even number, since they count in pairs."""
LEAST_EVERY = 8
FLOOR = 2.0
"""Least ratio of tr Sigma to its standard error; a measurement below it changes nothing."""
STEP = 1.25
"""Largest change of the factor at one measurement."""
DIVERGING = 3.0
"""Mean training loss since the last measurement over the lowest such mean, from which on the servo is off."""


@dataclass(frozen=True)
class Steering:
    """What a servo did to one child.

    Attributes:
        changes: Steps, each with the factor of the learning rate from that step on.
        off: Step at which it went off, near divergence; None if it did not.
    """

    changes: tuple[tuple[int, float], ...] = ()
    off: int | None = None

    def at(self, step: int) -> float:
        """Return the factor at a step, from 0; 1 before the first change."""
        return next((factor for start, factor in reversed(self.changes) if start <= step), 1.0)


FREE = Steering()
"""No servo, or none that did anything."""


@dataclass
class Controller:
    """Turns measurements of tr Sigma into the factor of the learning rate.

    The first measurement is the reference: the factor follows reference / tr Sigma, with a running mean of log tr Sigma
    in which a new measurement has the weight `smoothing`. It changes by `STEP` at most and stays in [1/limit, limit].
    A measurement less than `FLOOR` standard errors above 0 counts for nothing. If the loss nears divergence, the factor
    falls to 1, or stays where it is lower, until the end.
    """

    smoothing: float = 0.5
    limit: float = 4.0
    factor: float = 1.0
    level: float | None = None
    reference: float | None = None
    lowest: float = math.inf
    changes: list[tuple[int, float]] = field(default_factory=lambda: [])
    off: int | None = None

    def update(self, step: int, trace: float, error: float, loss: float) -> None:
        """Take a measurement before a step.

        Args:
            step: Steps done.
            trace: tr Sigma [nat^2/parameter^2].
            error: Its standard error.
            loss: Mean training loss since the last measurement [nat]; NaN if there is none.
        """
        if self.off is not None:
            return
        if math.isinf(loss) or loss > DIVERGING * self.lowest:
            self.off = step
            self._set(step, min(1.0, self.factor))
            return
        if not math.isnan(loss):
            self.lowest = min(self.lowest, loss)
        if not (math.isfinite(trace) and trace > FLOOR * error > 0):
            return
        new = math.log(trace)
        self.level = new if self.level is None else (1 - self.smoothing) * self.level + self.smoothing * new
        if self.reference is None:
            self.reference = self.level
        wanted = min(self.limit, max(1 / self.limit, math.exp(self.reference - self.level)))
        self._set(step, min(STEP * self.factor, max(self.factor / STEP, wanted)))

    def _set(self, step: int, factor: float) -> None:
        if factor != self.factor:
            self.factor = factor
            self.changes.append((step, factor))


class Servo:
    """Measures tr Sigma of one child in training and corrects its learning rate.

    Args:
        options: The field `servo`: `every`, `smoothing`, `limit`.
        stable: Steps of the stable phase.
        size: Step -> its examples.
    """

    def __init__(self, options: Mapping[str, Any], stable: range, size: Callable[[int], int]) -> None:
        self.stable, self.size, self.every = stable, size, int(options["every"])
        self.window = min(WINDOW, self.every) // 2 * 2
        self.controller = Controller(float(options.get("smoothing", 0.5)), float(options.get("limit", 4.0)))
        self._held: list[Tensor] = []
        self._traces: list[Tensor] = []

    @property
    def factor(self) -> float:
        """Factor of the learning rate."""
        return self.controller.factor

    @property
    def steering(self) -> Steering:
        """What it did so far."""
        return Steering(tuple(self.controller.changes), self.controller.off)

    def steer(self, done: int, losses: Sequence[Tensor], ranks: Ranks = ALONE) -> float:
        """Return the factor for the step after `done` steps, corrected if it is time to.

        Args:
            done: Steps done.
            losses: Losses [1] of the steps of this epoch so far.
            ranks: Processes that share each batch, whose losses differ and whose gradients do not.
        """
        if self._traces and done in self.stable and (done - self.stable.start) % self.every == 0:
            traces, recent = torch.stack(self._traces), losses[-self.every :]
            loss = float(ranks.mean(torch.stack(list(recent)).double().mean())) if recent else math.nan
            error = float(traces.std()) / math.sqrt(len(traces))
            self.controller.update(done, float(traces.mean()), error, loss)
            self._traces = []
        return self.factor

    @torch.no_grad()
    def note(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Take the gradients of a step, from 0, which are those of its batch alone."""
        place = (step - self.stable.start) % self.every - (self.every - self.window)
        if step not in self.stable or place < 0 or self.controller.off is not None:
            return
        # one vector, because many small operations would take as long as a step of a small network
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        if place % 2 == 0:
            self._held = [gradient]
            return
        if self._held:
            share = 1 / self.size(step - 1) + 1 / self.size(step)
            self._traces.append(gradient.sub_(self._held[0]).square_().sum(dtype=torch.float64) / share)
        self._held = []

    def snapshot(self) -> dict[str, Any]:
        """Return the state for `restore` as tensors and plain values."""
        controller = {**vars(self.controller), "changes": list(self.controller.changes)}
        return {"controller": controller, "held": list(self._held), "traces": list(self._traces)}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from `snapshot`."""
        self.controller = Controller(**state["controller"])
        self.controller.changes = [(int(step), float(factor)) for step, factor in self.controller.changes]
        self._held, self._traces = ([v.to(device) for v in state[name]] for name in ("held", "traces"))


class NoServo:
    """Leaves the learning rate as it is; the interface of `Servo`."""

    factor, steering = 1.0, FREE

    def steer(self, done: int, losses: Sequence[Tensor], ranks: Ranks = ALONE) -> float:
        """Return 1."""
        return 1.0

    def note(self, step: int, parameters: Sequence[Tensor]) -> None:
        """Do nothing."""

    def snapshot(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Do nothing."""


def make_servo(options: Mapping[str, Any], stable: range, size: Callable[[int], int]) -> Servo | NoServo:
    """Return the servo of a child, see `Servo`; without options one that does nothing."""
    return Servo(options, stable, size) if options else NoServo()
