"""BaseSpec: the training of the shared base weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainables.spec.rules import MOST_STEPS, about, check, check_optimizer, coerce


@dataclass(frozen=True)
class BaseSpec:
    """Training of the shared base weights theta_0: `steps` at a constant rate from the initial or the loaded weights.

    In protocol `branch` they are the start of the trunk. With 0 steps they are the initial or the loaded weights.

    Raises:
        ValueError: A field breaks its rule.
    """

    steps: int = field(default=60, metadata=about("Optimizer steps; 0 keeps the initial or the loaded weights."))
    learning_rate: float = field(default=0.02, metadata=about("Constant learning rate."))
    batch_size: int = field(default=32, metadata=about("Batch size, in examples."))
    momentum: float = field(default=0.9, metadata=about("Momentum coefficient, in [0, 1)."))
    weight_decay: float = field(default=0.0, metadata=about("Weight decay."))
    seed: int = field(default=0, metadata=about("Seed of the base weights."))
    optimizer: str = field(
        default="sgd", metadata=about("Optimizer: `sgd`, or `adamw` with its usual betas and without momentum.")
    )

    def __post_init__(self) -> None:
        coerce(self)
        check("base steps", self.steps, "be >= 0", self.steps >= 0)
        check("base steps", self.steps, f"be at most {MOST_STEPS}", self.steps <= MOST_STEPS)
        check_optimizer(self)
        check("base optimizer", self.optimizer, "be sgd or adamw", self.optimizer in ("sgd", "adamw"))
