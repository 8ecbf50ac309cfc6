"""Trained children and their epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from trainables.tasks.evaluation import Score
from trainables.training.members import OptimizerState
from trainables.training.servo import FREE, Steering


@dataclass(frozen=True)
class Epoch:
    """Record of one child after an epoch; the last epoch may be incomplete. Losses in nat."""

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    val: Score
    weight_norm: float = math.nan
    clipped: float = 0.0


@dataclass
class Child:
    """A trained child; its tensors are on the host.

    Attributes:
        weights: State dict: parameters and buffers.
        history: Its epochs.
        diverged_at: Step at which it diverged; None if it did not.
        state: State of its optimizer, with `Training.keep_state`.
        windows: Number of last checkpoints -> state dict of their mean; see `Training.window`.
        steering: What a servo did to its learning rate.
        moments: Adam's second moments times the batch size, by parameter name, with `Training.keep_moments`.
    """

    weights: dict[str, Tensor]
    history: list[Epoch]
    diverged_at: int | None = None
    state: OptimizerState | None = None
    moments: dict[str, Tensor] | None = None
    windows: Mapping[int, dict[str, Tensor]] = field(default_factory=lambda: {})
    steering: Steering = FREE

    @property
    def clipped_fraction(self) -> float:
        """Fraction of the steps whose gradient was clipped."""
        ends = [0, *(e.step for e in self.history)]
        clipped = sum(e.clipped * (e.step - start) for start, e in zip(ends, self.history, strict=False))
        return clipped / max(1, ends[-1])


def read_epoch(plain: Mapping[str, Any]) -> Epoch:
    """Return the epoch that `asdict` turned into `plain`."""
    settings = dict(plain)
    return Epoch(val=Score(**settings.pop("val")), **settings)
