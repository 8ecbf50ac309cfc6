"""Merges: (base, a, b, coefficient) -> weights. Pure functions on dicts of tensors.

Only floating-point entries are combined; integer buffers (such as BatchNorm's batch counter) are taken from A.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .registry import Registry

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Merge:
    """One way to merge two models.

    Attributes:
        name: Key in `MERGES`.
        combine: Formula on single tensors, (base, a, b, coefficient) -> merged.
        grid: Coefficients that a trial evaluates.
        symbol: The coefficient's symbol: alpha or s.
        formula, source: The formula as text and its paper.
    """

    name: str
    combine: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    grid: tuple[float, ...]
    symbol: str
    formula: str
    source: str

    def __call__(self, base: Weights, a: Weights, b: Weights, coefficient: float) -> dict[str, Tensor]:
        """Return the merged weights; inputs stay untouched, keys and dtypes are kept.

        Raises:
            ValueError: The three models do not have the same keys and shapes.
        """
        for other in (base, b):
            if wrong := sorted(set(a) ^ set(other)):
                raise ValueError(f"models to merge must have the same keys; {wrong[0]} is not in all of them")
        merged: dict[str, Tensor] = {}
        for key, value in a.items():
            if not value.shape == b[key].shape == base[key].shape:
                shapes = [tuple(w[key].shape) for w in (base, a, b)]
                raise ValueError(f"models to merge must have the same shapes; {key} has {shapes}")
            if value.is_floating_point():
                merged[key] = self.combine(base[key], value, b[key], coefficient)
            else:
                merged[key] = value.clone()
        return merged


MERGES: Registry[Merge] = Registry("merge")


def _linear(base: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    # exact at both ends and for a = b, which a + alpha (b - a) alone is not in floating point
    return a.clone() if alpha == 0 else b.clone() if alpha == 1 else a + alpha * (b - a)


def _task_arithmetic(base: Tensor, a: Tensor, b: Tensor, s: float) -> Tensor:
    return base + s * ((a - base) + (b - base))


MERGES.add(
    "linear",
    Merge(
        "linear",
        _linear,
        tuple(i / 10 for i in range(11)),
        "alpha",
        "(1 − α)θ_A + αθ_B",
        "Wortsman et al. 2022, arXiv 2203.05482",
    ),
)
MERGES.add(
    "task_arithmetic",
    Merge(
        "task_arithmetic",
        _task_arithmetic,
        tuple(i / 4 for i in range(7)),
        "s",
        "θ₀ + s(τ_A + τ_B)",
        "Ilharco et al. 2022, arXiv 2212.04089",
    ),
)
