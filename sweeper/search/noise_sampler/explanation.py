"""Explanation of the trials by the sampler's model: fitted exponents, best noise and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sweeper.search.noise_sampler.candidates import draw_level_sets, draw_neighbours, find_best_points
from sweeper.search.noise_sampler.encoding import Array, Rows
from sweeper.search.noise_sampler.level_sets import KnobSpace, Points
from sweeper.search.noise_sampler.surrogate import Surrogate

_SEEN, _LEVELS, _TOP, _NEAR, _BINS = 40, 32, 3, 20, 160


@dataclass(frozen=True)
class Explanation:
    """Explanation of the trials by the sampler's model.

    Attributes:
        noise: Name of the definition.
        exponents: Role -> fitted exponent of its factor (eta, B, 1 - mu, lambda, k_aug); the pivot's stays as defined.
        exponent_low, exponent_high: Fitted role -> ends of its 90 % interval, from a bootstrap of the single-index
            model as in `sweeper analyse`. With too few configurations these are empty, and the exponents are the
            surrogate's.
        shifts: `<knob>=<choice>` or `augmentation` -> fitted factor on the noise beyond the definition.
        optimum: Best noise (unit of the definition): median, over draws of the surrogate, of the noise at a draw's
            minimum over all knobs. None if no noise varies or there are too few trials.
        optimum_low, optimum_high: 5 % and 95 % quantiles over the draws.
        posterior: (noise, probability) over a grid of noises; sums to 1, empty if `optimum` is None.
        variance_share: Share of the explained variance that noise alone explains, in [0, 1]; None if the model does not
            predict unseen trials.
        share_low, share_high: 5 % and 95 % quantiles of that share over the hyperparameters' posterior.
        trials: Number of finished trials in the fit.
        configs: Number of their configurations; 0 if unknown.
    """

    noise: str
    exponents: dict[str, float]
    exponent_low: dict[str, float] = field(default_factory=lambda: {})
    exponent_high: dict[str, float] = field(default_factory=lambda: {})
    shifts: dict[str, float] = field(default_factory=lambda: {})
    optimum: float | None = None
    optimum_low: float | None = None
    optimum_high: float | None = None
    posterior: tuple[tuple[float, float], ...] = ()
    variance_share: float | None = 0.0
    share_low: float | None = None
    share_high: float | None = None
    trials: int = 0
    configs: int = 0


@dataclass(frozen=True)
class BestDraws:
    """Minima of the surrogate's draws.

    Attributes:
        log_noise, refined: Log noise by the definition and refined, both of shape (draws,).
        unit: Coordinates, shape (draws, d).
    """

    log_noise: Array
    refined: Array
    unit: Array

    def summary(self) -> tuple[float, float, float]:
        """Return median, 5 % and 95 % quantile of the noise, in the unit of the definition."""
        low, best, high = np.quantile(self.log_noise, [0.05, 0.5, 0.95])
        return math.exp(best), math.exp(low), math.exp(high)

    def posterior(self, low: float, high: float) -> tuple[tuple[float, float], ...]:
        """Return (noise, probability) over a fine grid of log noises that covers [low, high] and all draws.

        Source: Gaussian kernels with Silverman's width by the interquartile range, Silverman 1986, eq. 3.31.
        """
        ends = min(low, float(self.log_noise.min())), max(high, float(self.log_noise.max()))
        edges = np.linspace(*ends, _BINS + 1)
        middles, step = (edges[1:] + edges[:-1]) / 2, (ends[1] - ends[0]) / _BINS
        spread = min(float(self.log_noise.std()), float(np.subtract(*np.quantile(self.log_noise, [0.75, 0.25]))) / 1.34)
        width = max(0.9 * spread * len(self.log_noise) ** -0.2, step)
        weights = np.exp(-0.5 * ((middles[:, None] - self.log_noise[None, :]) / width) ** 2).sum(axis=1)
        return tuple(zip(np.exp(middles).tolist(), (weights / weights.sum()).tolist(), strict=True))


def draw_best(
    space: KnobSpace, models: Sequence[Surrogate], axis: Array, draws: int, rng: np.random.Generator, each: int
) -> BestDraws:
    """Return the minima of the surrogate's draws over its points, level sets and neighbours of the best.

    Args:
        space: The search space.
        models: The surrogate and its variants; each gets an even share of the draws.
        axis: First and last refined log noise to cover.
        draws: Number of draws.
        rng: Generator of points and draws.
        each: Points per level set, of 32 level sets.
    """
    model, levels = models[0], np.linspace(axis[0], axis[-1], _LEVELS)
    unit = np.concatenate(
        [
            find_best_points(model, _SEEN),
            draw_level_sets(space, model, levels, rng, each)[0],
            draw_neighbours(space, find_best_points(model, _TOP), model, rng, _NEAR),
        ]
    )
    points = space.points(unit)
    minima = [_find_lowest(m, points, math.ceil(draws / len(models)), rng) for m in models]
    refined = np.concatenate([m.axis(points)[i] for m, i in zip(models, minima, strict=True)])
    rows = np.concatenate(minima)
    return BestDraws(points.log_noise[rows], refined, points.unit[rows])


def _find_lowest(model: Surrogate, points: Points, draws: int, rng: np.random.Generator) -> Rows:
    mean, covariance = model.predict(points)[0], model.covariance(points, points)
    # a posterior covariance of many points is singular, so its symmetric square root replaces the Cholesky factor
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return (mean + rng.standard_normal((draws, len(mean))) @ root.T).argmin(axis=1)


@dataclass(frozen=True)
class RecommendedTrial:
    """The finished configuration with the best posterior mean.

    Attributes:
        number: Number of its first trial.
        params: Its parameters.
        mean, sd: Posterior mean and sd of its noise-free objective, in the study's unit and direction.
        at_bounds: Knobs whose value lies at an end of their range: a wider range may hold a better configuration.
    """

    number: int
    params: dict[str, Any]
    mean: float
    sd: float
    at_bounds: tuple[str, ...] = ()
