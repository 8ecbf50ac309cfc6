"""What the sampler says about the trials: fitted exponents, the best noise and how sure that is.

Only reported: where to search next is decided on draws of the surrogate, which know which noises are unexplored but,
conditioned on one setting of its hyperparameters, are far too sure or far too unsure of the argmax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .knobs import Array
from .smoother import average, bootstrap_argmax, train
from .surrogate import tame

FEWEST, LEVELS = 6, 4
"""Trials, and different noises among them, below which no best noise is given."""
_DRAWS, _GRID, _GROUPS = 80, 81, 60


@dataclass(frozen=True)
class Explanation:
    """What the sampler made of the trials.

    Attributes:
        noise: Name of the definition.
        exponents: Role -> fitted exponent of its factor (eta, B, 1 - mu, lambda); the pivot's is taken as given.
        optimum: Refined noise, among those tried, at which the trials' smoothed loss is lowest (unit of the
            definition, other knobs at mid-range); None where the trials do not determine one.
        optimum_low: 5 % quantile of that place over resamples of the trials: which configurations were drawn, and
            how smooth the curve is; not what another search would find.
        optimum_high: 95 % quantile.
        variance_share: Share of the explained variance that noise alone explains, in [0, 1].
        trials: Number of finished trials behind it.
        exponent_low: Role -> 5 % quantile of its exponent; without those that are taken as given.
        exponent_high: Role -> 95 % quantile.
        posterior: (noise, probability that it is the best one) on a grid of noises, sums to 1; empty where unknown.
    """

    noise: str
    exponents: dict[str, float]
    optimum: float | None = None
    optimum_low: float | None = None
    optimum_high: float | None = None
    variance_share: float = 0.0
    trials: int = 0
    exponent_low: dict[str, float] = field(default_factory=lambda: {})
    exponent_high: dict[str, float] = field(default_factory=lambda: {})
    posterior: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class BestNoise:
    """A best noise with its 90 % interval, low <= best <= high."""

    best: float
    low: float
    high: float


def best_noise(phi: Array, losses: Array) -> BestNoise | None:
    """Return the noise at which the losses are lowest, with a bootstrap interval (`sweeper.smoother`).

    The losses are tamed, and above 60 trials averaged over neighbours in noise for the curve, so that it costs about
    30 ms at any number of trials; the bootstrap resamples trials.

    Args:
        phi: Refined log noise of the trials, shape (n,).
        losses: Their losses, shape (n,), smaller is better.

    Returns:
        The noise; None below `FEWEST` trials or `LEVELS` different noises, or where all losses are equal.
    """
    if len(phi) < FEWEST or len(np.unique(phi.round(6))) < LEVELS:
        return None
    order = np.argsort(phi, kind="stable")
    x, z = phi[order], -tame(losses[order])
    if not z.any():
        return None
    smoother = train(x, z, _GROUPS)
    grid = np.linspace(x[0], x[-1], _GRID)
    best = float(grid[int(np.argmax(average(smoother, grid, z)[0]))])
    low, high = np.quantile(bootstrap_argmax(smoother, grid, z, 0, _DRAWS), [0.05, 0.95])
    return BestNoise(math.exp(best), math.exp(min(low, best)), math.exp(max(high, best)))
