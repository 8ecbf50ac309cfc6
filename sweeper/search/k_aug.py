"""KAug: factor of augmentation on the gradient noise, as a function of a configuration."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Tables = Mapping[str, Mapping[float, float]]
"""Policy -> {strength: k_aug}, from the probe at the base weights."""


@dataclass(frozen=True)
class KAug:
    """k_aug of a configuration: ln k_aug is piecewise linear in the strength between the probed strengths.

    Attributes:
        tables: Policy -> {strength in [0, 1]: k_aug > 0}.
        policy, strength: Values for `augmentation` and `augmentation_strength` if these are not searched.

    Raises:
        ValueError: A table is empty, or a value is not a positive number.
    """

    tables: Tables
    policy: str = "none"
    strength: float = 0.0

    def __post_init__(self) -> None:
        for policy, table in self.tables.items():
            if not table:
                raise ValueError(f"the table of augmentation {policy!r} must hold a strength, got none")
            for strength, k in table.items():
                if not (0 < k < math.inf):
                    raise ValueError(f"k_aug must be > 0 and finite, got {k!r} at {policy} {strength:g}")

    def __call__(self, params: Mapping[str, Any]) -> float:
        """Return k_aug of a configuration's parameters; the fixed values replace missing ones.

        Raises:
            ValueError: The probe did not measure the policy.
        """
        policy = str(params.get("augmentation", self.policy))
        if policy not in self.tables:
            raise ValueError(
                f"the probe did not measure augmentation {policy!r}; known: {', '.join(sorted(self.tables))}"
            )
        return _interpolate(self.tables[policy], float(params.get("augmentation_strength", self.strength)))


def _interpolate(table: Mapping[float, float], strength: float) -> float:
    if strength in table:
        return table[strength]
    grid = sorted(table)
    right = bisect_left(grid, strength)
    if right == 0 or right == len(grid):
        return table[grid[0] if right == 0 else grid[-1]]
    low, high = grid[right - 1], grid[right]
    share = (strength - low) / (high - low)
    return math.exp((1 - share) * math.log(table[low]) + share * math.log(table[high]))
