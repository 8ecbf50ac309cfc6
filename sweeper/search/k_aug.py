"""KAug: factor of augmentation on the gradient noise, as a function of a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
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
        strength = float(params.get("augmentation_strength", self.strength))
        return float(self.of_columns([policy], np.array([strength]))[0])

    def of_columns(self, policies: Sequence[str], strengths: Array) -> Array:
        """Return k_aug of n configurations, shape (n,).

        Args:
            policies: Policy per configuration, of length n.
            strengths: Strength per configuration, in [0, 1], shape (n,).

        Raises:
            ValueError: The probe did not measure a policy.
        """
        names, out = np.asarray(policies, dtype=object), np.empty(len(strengths))
        for policy in dict.fromkeys(policies):
            if policy not in self.tables:
                raise ValueError(
                    f"the probe did not measure augmentation {policy!r}; known: {', '.join(sorted(self.tables))}"
                )
            rows = names == policy
            out[rows] = _interpolate(self.tables[policy], strengths[rows])
        return out


def _interpolate(table: Mapping[float, float], strengths: Array) -> Array:
    grid = np.array(sorted(table))
    known = np.array([table[strength] for strength in grid.tolist()])
    right = np.searchsorted(grid, strengths)  # the first probed strength that is not below
    between = (right > 0) & (right < len(grid)) & (grid[np.minimum(right, len(grid) - 1)] != strengths)
    out = known[np.minimum(right, len(grid) - 1)]
    if between.any():
        high, low = right[between], right[between] - 1
        share = (strengths[between] - grid[low]) / (grid[high] - grid[low])
        logs = np.array([math.log(value) for value in known.tolist()])
        # math.exp, since np.exp may round otherwise from machine to machine
        out[between] = [math.exp(v) for v in ((1 - share) * logs[low] + share * logs[high]).tolist()]
    return out
