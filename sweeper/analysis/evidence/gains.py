"""What further columns add to a fit, and whether that is a finding: one rule for every control.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
ΔR²     R² that q further columns add: mean of that in the sample, which is too large by the cost of estimating them,
        and of that of left-out configurations, which is too small by as much
======  ============================================================================================

- *more*: the test of the columns has p < .05, or an index with free exponents gains by an interval above 0.
- *no more*: neither, and the 95 % upper bound of every ΔR² is below `NEGLIGIBLE` (an equivalence bound).
- *not detected*: everything else. A large p alone says nothing about the absence of an effect.

The 90 % interval of ΔR² joins two errors: the bootstrap over configurations, and that of the q coefficients, whose
gain without any effect is σ² χ²_q / n, σ² the rest that the larger model leaves.

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
"""Quantile of the normal distribution of a one-sided 95 % bound."""


class Finding(StrEnum):
    """Whether something tells more than something else does."""

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
    """Return what a larger model adds on the same configurations."""
    n, total = len(small.errors), float(small.deviations.sum())
    outside, inside = small.errors - large.errors, small.inside - large.inside
    value = float(outside.sum() + inside.sum()) / (2.0 * total)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws)
    # residuals of the fit that holds a configuration scatter too little: the spread is that of the left-out ones
    spread = counts @ outside / np.maximum(counts @ small.deviations, 1e-300) - float(outside.sum()) / total
    below, above = np.quantile(spread, [0.05, 0.95])
    rest = min(1.0, float(large.errors.sum()) / total)
    own = math.sqrt(2.0 * max(large.columns - small.columns, 0)) * rest / n
    # a gain's error grows with the gain: at the upper end u that of u counts, u = v + z √(4 u σ²/n + own²)
    half = value + 2.0 * Z**2 * rest / n
    end = half + math.sqrt(max(half**2 - value**2 + (Z * own) ** 2, 0.0))
    low, high = value - math.hypot(float(below), Z * own), value + math.hypot(float(above), Z * own)
    return Gain(value, low, max(high, end))


def decide_finding(p: float, columns: Gain, *indices: Gain | None) -> Finding:
    """Return the finding of a test and of the gains beside it.

    Args:
        p: Two-sided p value of the added columns.
        columns: What they gain.
        indices: What other ways of adding the same gain, which the test does not see; None where one is not possible,
            which rules out *no more*.
    """
    known = [g for g in indices if g is not None]
    if p < 0.05 or any(g.low > 0 for g in known):
        return Finding.MORE
    bounded = len(known) == len(indices) and all(g.high < NEGLIGIBLE for g in (columns, *known))
    return Finding.NO_MORE if bounded else Finding.NOT_DETECTED
