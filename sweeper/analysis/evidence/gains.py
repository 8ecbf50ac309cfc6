"""Gain of further columns in a fit, and the finding that follows: one rule for all controls.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
ΔR²     R² that q further columns add: mean of the in-sample gain, which is too large by the cost of estimation,
        and of the gain for left-out configurations, which is too small by the same amount
======  ============================================================================================

- *more*: the test of the columns has p < .05, or the gain of an index with free exponents has an interval above 0.
- *no more*: neither holds, and the 95 % upper bound of every ΔR² is below `NEGLIGIBLE` (an equivalence bound).
- *not detected*: all other cases. A large p alone is no evidence against an effect.

The 90 % interval of ΔR² combines two errors: that of the bootstrap over configurations, and that of the q coefficients.
Without any effect their gain is σ² χ²_q / n, with σ² the residual variance of the larger model.

Source: equivalence bounds: Schuirmann 1987, doi 10.1007/BF01068419; percentile interval: Efron & Tibshirani 1993,
chapter 13; gain of useless columns: Draper & Smith 1998, chapter 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from sweeper.analysis.evidence.linear import LeftOutErrors

NEGLIGIBLE = 0.05
DRAWS = 2000
Z = 1.645
"""Normal quantile of a one-sided 95 % bound."""


class Finding(StrEnum):
    """Whether some columns explain more than others do."""

    MORE = "more"
    NOT_DETECTED = "not detected"
    NO_MORE = "no more"


@dataclass(frozen=True)
class Gain:
    """ΔR² with the ends of its 90 % interval."""

    value: float
    low: float
    high: float


def estimate_gain(small: LeftOutErrors, large: LeftOutErrors, *, seed: int = 0, draws: int = DRAWS) -> Gain:
    """Return the gain of a larger model on the same configurations."""
    n, total = len(small.errors), float(small.deviations.sum())
    outside, inside = small.errors - large.errors, small.inside - large.inside
    value = float(outside.sum() + inside.sum()) / (2.0 * total)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    # in-sample residuals scatter too little, so the spread is that of the left-out configurations
    spread = counts @ outside / np.maximum(counts @ small.deviations, 1e-300) - float(outside.sum()) / total
    below, above = np.quantile(spread, [0.05, 0.95])
    rest = min(1.0, float(large.errors.sum()) / total)
    coefficient_error = math.sqrt(2.0 * max(large.columns - small.columns, 0)) * rest / n
    # a gain's error grows with the gain, so the upper end u solves u = v + z √(4 u σ²/n + coefficient_error²)
    half = value + 2.0 * Z**2 * rest / n
    end = half + math.sqrt(max(half**2 - value**2 + (Z * coefficient_error) ** 2, 0.0))
    low, high = (
        value - math.hypot(float(below), Z * coefficient_error),
        value + math.hypot(float(above), Z * coefficient_error),
    )
    return Gain(value, low, max(high, end))


def decide_finding(p: float, columns: Gain, *indices: Gain | None) -> Finding:
    """Return the finding that follows from a test and its gains.

    Args:
        p: Two-sided p value of the added columns.
        columns: Their gain.
        indices: Gains of other ways to add the same factors, which the test does not cover. An impossible way is None
            and rules out *no more*.
    """
    known = [g for g in indices if g is not None]
    if p < 0.05 or any(g.low > 0 for g in known):
        return Finding.MORE
    bounded = len(known) == len(indices) and all(g.high < NEGLIGIBLE for g in (columns, *known))
    return Finding.NO_MORE if bounded else Finding.NOT_DETECTED
