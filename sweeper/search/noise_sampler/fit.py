"""Fit of the surrogate to a study's trials, with draws from its hyperparameters' posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.search.noise_sampler.candidates import find_range
from sweeper.search.noise_sampler.encoding import FACTORS, Array, Mask
from sweeper.search.noise_sampler.explanation import BestDraws, draw_best
from sweeper.search.noise_sampler.kernel import Prior, matern
from sweeper.search.noise_sampler.level_sets import KnobSpace, Points
from sweeper.search.noise_sampler.loss_transform import LossTransform, subsample, transform_losses
from sweeper.search.noise_sampler.study_attrs import Observations
from sweeper.search.noise_sampler.surrogate import Surrogate, fit

TILT_SD = 0.5
"""Prior sd of a refined exponent relative to the pivot's: a square-root law is one sd from a linear law."""
_SHIFT_SD = 0.7  # sd of the shift in log noise by a choice or an augmentation's strength, in nats
_MAX_TRIALS = 300
_UNSETTLED, _VARIANTS, _MANY_VARIANTS = 60, 4, 16
_DRAWS, _MANY_DRAWS, _EACH, _EACH_OF_MANY = 200, 1000, 3, 12


@dataclass(frozen=True)
class Parts:
    """Parts of the search that an ablation can disable, and the additive model of explanations."""

    level_sets: bool = True
    exponents: bool = True
    residual: bool = True
    repeats: bool = True
    additive: bool = False


@dataclass(frozen=True)
class SurrogateFit:
    """Fit of the surrogate to one objective, or to one weighting of several.

    Attributes:
        space: The search space.
        model: The surrogate at the most probable hyperparameters.
        losses: Of the model's points, before the transform, shape (n,); those of a proxy are moved to the level of the
            full budget.
        low, high: Reachable range of log noise.
    """

    space: KnobSpace
    model: Surrogate
    losses: Array
    low: float
    high: float

    def draw_models(self, rng: np.random.Generator) -> list[Surrogate]:
        """Return the surrogate and a few variants from the hyperparameters' posterior, fast enough for an ask."""
        # many trials determine the hyperparameters, and each variant takes time
        few = len(self.model.points) <= _UNSETTLED
        return [self.model, *(self.model.variants(_VARIANTS, rng) if few else [])]

    def draw_many_models(self, rng: np.random.Generator) -> list[Surrogate]:
        """Return the surrogate and many variants from the hyperparameters' posterior, for explanations."""
        return [self.model, *self.model.variants(_MANY_VARIANTS, rng)]

    def draw_best(
        self, models: Sequence[Surrogate], rng: np.random.Generator, thorough: bool = False
    ) -> BestDraws | None:
        """Return the minima of the models' draws; None if no noise varies.

        Args:
            models: Surrogates with equal shares of the draws.
            rng: Generator of points and draws.
            thorough: Whether to use more draws and more points per level of noise; too slow for an ask.
        """
        if not self.high > self.low:
            return None
        seen = self.model.axis(self.model.points.with_proxy(0.0))
        axis = np.array([min(self.low, float(seen.min())), max(self.high, float(seen.max()))])
        draws, each = (_MANY_DRAWS, _EACH_OF_MANY) if thorough else (_DRAWS, _EACH)
        return draw_best(self.space, models, axis, draws, rng, each)


def fit_surrogate(
    space: KnobSpace, seen: Observations, weights: Array, pruned: Array, parts: Parts, thorough: bool = False
) -> SurrogateFit:
    """Return the surrogate fitted to finished trials.

    Args:
        space: The search space.
        seen: Trials with a value, at least one.
        weights: Weights of the objectives, with sum 1.
        pruned: Coordinates of pruned trials, shape (m, d); they count at the 80 % quantile of the losses.
        parts: Active parts of the model.
        thorough: See `sweeper.search.noise_sampler.surrogate.fit`.
    """
    losses = _scalarize(seen.losses, weights)
    low, high = find_range(space)
    losses = _move_proxy(space.points(seen.unit), losses, seen.proxy, high - low)
    worse = np.full(len(pruned), np.quantile(losses, 0.8))
    unit, losses = np.concatenate([seen.unit, pruned]), np.concatenate([losses, worse])
    proxy = np.concatenate([seen.proxy, np.zeros(len(pruned), dtype=bool)])
    rows = subsample(losses, _MAX_TRIALS)
    points, losses = space.points(unit[rows]).with_proxy(proxy[rows]), losses[rows]
    steps = space.points(np.random.default_rng(0).random((64, len(space.knobs)))).step
    step_span = float(np.ptp(steps)) if space.pivot is not None else 0.0
    prior = Prior.of(
        len(space.knobs), _tilt_sds(space), high - low, step_span, additive=parts.additive, proxied=bool(proxy.any())
    )
    prior = prior.hold(exponents=not parts.exponents, residual=not parts.residual)
    transform = LossTransform.of(losses)
    model = fit(
        points,
        np.zeros(len(losses)) if transform is None else transform(losses),
        find_nominal(space),
        prior,
        thorough=thorough,
    )
    return SurrogateFit(space, model, losses, low, high)


def _move_proxy(points: Points, losses: Array, proxy: Mask, span: float) -> Array:
    """Return the losses with those of the proxy moved to the level of the full budget, shape (n,).

    The level is the median difference of the trials with the full budget from the proxy's near them. A longer training
    lowers every loss, and one transform then fits both. The model's offset takes the rest.
    """
    if not proxy.any() or proxy.all():
        return losses
    full, short = points[~proxy], points[proxy]
    gaps = (full.unit[:, None, :] - short.unit[None, :, :]) / (0.7 * points.unit.shape[1] ** 0.25)
    squares = (gaps**2).sum(axis=-1)
    if span > 0:
        squares += ((full.log_noise[:, None] - short.log_noise[None, :]) / (0.2 * span)) ** 2
    weights = matern(2.0 * np.sqrt(squares))[0]
    near = weights @ losses[proxy] / weights.sum(axis=1)
    return np.where(proxy, losses + np.median(losses[~proxy] - near), losses)


def predict_mixture(models: Sequence[Surrogate], space: KnobSpace, unit: Array) -> tuple[Array, Array]:
    """Return mean and sd, both shape (n,), of the models' mixture at coordinates of shape (n, d).

    A single set of hyperparameters is overconfident; an average over draws recommends better.
    """
    points = space.points(unit)
    each = [model.predict(points) for model in models]
    means, sds = np.array([m for m, _ in each]), np.array([s for _, s in each])
    return means.mean(axis=0), np.sqrt(means.var(axis=0) + (sds**2).mean(axis=0))


def fit_constraint(space: KnobSpace, units: Array, values: Array) -> Surrogate:
    """Return the surrogate of a constraint from its values, shape (n,), at coordinates of shape (n, d).

    Of many values, those nearest to the limit and an even share of the others enter.
    """
    rows = subsample(np.abs(values), _MAX_TRIALS)
    units, values = units[rows], values[rows]
    prior = Prior.of(len(space.knobs), np.full(len(space.factor_roles), TILT_SD))
    return fit(space.points(units), np.tanh(values), find_nominal(space), prior)


def find_nominal(space: KnobSpace) -> Mask:
    """Return which knobs have choices without an order, shape (d,)."""
    return np.array([knob.nominal for knob in space.knobs], dtype=bool)


def draw_weights(seen: Observations, rng: np.random.Generator) -> Array:
    """Return random weights of the objectives, with sum 1."""
    count = seen.losses.shape[1]
    return np.ones(1) if count == 1 else rng.dirichlet(np.ones(count))


def given_exponent(space: KnobSpace, role: str | None) -> float:
    """Return the exponent of the role's factor in the definition; for momentum that of 1 - mu, else of 1 + mu."""
    exponents = space.noise.exponents
    if role == "momentum":
        return float(exponents.get("one_minus_momentum", exponents.get("one_plus_momentum", 0.0)))
    return float(exponents.get(str(role), 0.0))


def _tilt_sds(space: KnobSpace) -> Array:
    pivot = 1.0 if space.pivot is None else abs(given_exponent(space, space.knobs[space.pivot].role))
    known = [role in FACTORS or role == "k_aug" for role in space.factor_roles]
    return np.where(known, TILT_SD * pivot, _SHIFT_SD) if known else np.zeros(0)


def _scalarize(losses: Array, weights: Array) -> Array:
    # augmented Tchebycheff norm of the transformed objectives (Knowles 2006, ParEGO, eq. 2)
    if np.count_nonzero(weights) == 1:
        return losses[:, int(np.argmax(weights))]
    each = np.stack([transform_losses(column) for column in losses.T], axis=1)
    weighted = (each - each.min(axis=0)) * weights
    return weighted.max(axis=1) + 0.05 * weighted.sum(axis=1)
