"""Prior of the best noise from finished searches, widened and mixed with an even density."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from sweeper.formatting import exact_text
from sweeper.search.noise_sampler.encoding import Array

WIDEN = math.log(2.0)
"""Sd that adds in quadrature to a log noise's: another task, model or space has another optimum."""
TRUST = 0.7
"""Weight of the normal part; the rest is even over the reachable noises."""
Z90 = 1.6448536269514722
"""95 % quantile of the standard normal, half a 90 % interval in sds."""


@dataclass(frozen=True)
class NoisePrior:
    """Best noise of other searches with its 90 % interval, in the unit of the definition.

    Raises:
        ValueError: The values break 0 < low <= best <= high.
    """

    best: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.best <= self.high < math.inf:
            got = f"low={exact_text(self.low)}, best={exact_text(self.best)}, high={exact_text(self.high)}"
            raise ValueError(f"a noise prior must have 0 < low <= best <= high, got {got}")

    @property
    def sd(self) -> float:
        """Sd of the log noise after widening, in nats."""
        return math.hypot(math.log(self.high / self.low) / (2 * Z90), WIDEN)

    def log_density(self, axis: Array, low: float, high: float) -> Array:
        """Return the log density at log noises, shape (n,): a normal mixed with an even density over [low, high]."""
        hump = norm.logpdf(axis, math.log(self.best), self.sd) + math.log(TRUST)
        even = np.full(len(axis), math.log((1.0 - TRUST) / max(high - low, 1e-9)))
        return np.asarray(logsumexp([hump, even], axis=0))

    def level(self, share: float, low: float, high: float) -> float:
        """Return the log noise at a quantile of the mixture inside [low, high]."""
        grid = np.linspace(low, high, 257)
        mass = np.cumsum(np.exp(self.log_density(grid, low, high)))
        return float(np.interp(share, (mass - mass[0]) / (mass[-1] - mass[0]), grid))
