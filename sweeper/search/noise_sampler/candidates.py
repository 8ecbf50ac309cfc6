"""Candidates of a search: the start-up design over log noise, level sets, space filling, neighbours of the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, ndtr
from scipy.stats import qmc

from sweeper.search.noise_sampler.encoding import Array, Mask, Rows, lies_within
from sweeper.search.noise_sampler.level_sets import KnobSpace, Points
from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.noise_sampler.surrogate import Surrogate

STARTUP, LEVEL_SET, FILLING, NEIGHBOUR, REPEAT = "startup", "level_set", "filling", "neighbour", "repeat"
"""Origins of a proposal; a refined candidate keeps the origin of its parent."""

_TRIES = 32  # draws of the other knobs per start-up point, until one reaches the level
_ENUMERABLE = 512  # a space with at most this many points is enumerated


def sobol(count: int, dimensions: int, rng: np.random.Generator) -> Array:
    """Return scrambled Sobol points, shape (count, dimensions), in [0, 1)."""
    power = max(0, math.ceil(math.log2(max(count, 1))))
    return qmc.Sobol(dimensions, rng=rng).random_base2(power)[:count]


def van_der_corput(index: int) -> float:
    """Return the radical inverse of `index` >= 0 in base 2, in [0, 1): 0, 1/2, 1/4, 3/4, ..."""
    bits = f"{index:b}"[::-1]
    return int(bits, 2) / 2 ** len(bits)


def find_range(space: KnobSpace) -> tuple[float, float]:
    """Return the 2 % and 98 % quantiles of log noise over the space; (0, 0) if no noise varies."""
    if space.pivot is None:
        return 0.0, 0.0
    unit = sobol(256, len(space.knobs), np.random.default_rng(0))
    low, high = np.quantile(space.points(unit).log_noise, [0.02, 0.98])
    return float(low), float(high)


def startup_point(
    space: KnobSpace, seed: int, index: int, prior: NoisePrior | None = None, span: tuple[float, float] | None = None
) -> Array:
    """Return point `index` of the start-up design, shape (d,); a function of (seed, index).

    Log noise follows the van der Corput sequence over the reachable range, shifted by the seed. Any 2^m first points
    therefore hold one level per stratum of 2^m equal strata. The other knobs follow a scrambled Sobol sequence, and the
    pivot solves for the level. If it cannot reach the level, further draws of the other knobs follow.

    Args:
        space: The search space.
        seed: Seed of the design.
        index: Number of the point.
        prior: Prior of the best noise, whose quantiles replace the even levels.
        span: Ends of the log noises; by default the reachable range.
    """
    shared = np.random.default_rng([seed, 0x5EED])
    shift, scramble = shared.random(), int(shared.integers(2**31))
    engine = qmc.Sobol(len(space.knobs), rng=scramble)
    sequence = (engine.fast_forward(index) if index else engine).random(1)
    if space.pivot is None:
        return space.points(sequence).unit[0]
    draws = np.concatenate([sequence, np.random.default_rng([seed, index]).random((_TRIES - 1, len(space.knobs)))])
    low, high = span or find_range(space)
    share = (van_der_corput(index) + shift) % 1.0
    target = low + (high - low) * share if prior is None else prior.level(share, low, high)
    return reach_level(space, draws, target, 0.02 * (high - low))


def reach_level(space: KnobSpace, draws: Array, target: float, tolerance: float) -> Array:
    """Return the first draw at a log noise within a tolerance after its pivot moved, else the nearest, shape (d,).

    Args:
        space: A search space with a pivot.
        draws: Coordinates, shape (n, d).
        target: The log noise.
        tolerance: Largest error of the log noise, which rounding of the knobs causes.
    """
    unit, _ = space.solve(draws, np.full(len(draws), target), np.zeros(len(space.factor_roles)))
    points = space.points(unit)
    miss = np.abs(points.log_noise - target)
    good = np.flatnonzero(miss <= tolerance)
    return points.unit[good[0] if len(good) else int(miss.argmin())]


@dataclass(frozen=True)
class Pool:
    """Candidates.

    Attributes:
        points: The candidates, n points.
        origin: Their origins, one of this module's names each.
        level: Their target refined log noises, shape (n,); NaN without a target.
    """

    points: Points
    origin: Sequence[str]
    level: Array

    def extend(self, points: Points, parents: Rows) -> Pool:
        """Return the pool with added `points`, which take origin and level of their parents in the pool."""
        origin = [*self.origin, *(self.origin[i] for i in parents)]
        return Pool(self.points + points, origin, np.concatenate([self.level, self.level[parents]]))


def propose(space: KnobSpace, model: Surrogate, levels: Array, rng: np.random.Generator) -> Pool:
    """Return the candidates of one ask.

    Args:
        space: The search space.
        model: The surrogate of the finished trials.
        levels: Promising refined log noises, shape (m,); ignored if no noise varies.
        rng: The trial's generator.
    """
    count = math.prod(knob.size for knob in space.knobs)
    if count <= _ENUMERABLE:
        unit = _enumerate(space)
        return Pool(space.points(unit), [FILLING] * len(unit), np.full(len(unit), np.nan))
    unit = sobol(128, len(space.knobs), rng)
    near = draw_neighbours(space, find_best_points(model, 5), model, rng, 24)
    origin = [FILLING] * len(unit) + [NEIGHBOUR] * len(near)
    unit, aims = np.concatenate([unit, near]), np.full(len(origin), np.nan)
    if space.pivot is not None and len(levels):
        aimed, reached = draw_level_sets(space, model, levels, rng)
        # a pivot with few choices cannot reach a level exactly
        solved = not space.knobs[space.pivot].choices
        origin += [LEVEL_SET if solved else FILLING] * len(aimed)
        unit, aims = np.concatenate([unit, aimed]), np.concatenate([aims, reached if solved else reached * np.nan])
    return Pool(space.points(unit), origin, aims)


def _enumerate(space: KnobSpace) -> Array:
    axes = [knob.grid() for knob in space.knobs]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def find_best_points(model: Surrogate, count: int) -> Array:
    """Return the coordinates of the evaluated points with the lowest posterior means, shape (<= count, d).

    Points outside the space, from an earlier and wider one, count only if no other exists.
    """
    points = model.points.with_proxy(0.0)
    rows = np.argsort(np.where(find_inside(points), model.predict(points)[0], np.inf), kind="stable")
    return np.clip(points.unit[rows[: min(count, max(1, int(find_inside(points).sum())))]], 0.0, 1.0)


def find_inside(points: Points) -> Mask:
    """Return which points lie inside the space, shape (n,); all points if none does."""
    mask: Mask = np.asarray(lies_within(points.unit).all(axis=1))
    return mask if mask.any() else np.ones(len(points), dtype=bool)


def draw_level_sets(
    space: KnobSpace, model: Surrogate, levels: Array, rng: np.random.Generator, each: int = 20
) -> tuple[Array, Array]:
    """Return points on level sets of the refined log noise, shape (n <= len(levels) * each, d), and their levels, (n,).

    Scrambled Sobol draws all knobs except the pivot, which solves for the level. Unreachable draws are dropped.
    """
    draws = sobol(each * len(levels), len(space.knobs), rng)
    targets = np.resize(levels, len(draws))
    unit, reached = space.solve(draws, targets, model.theta.tilt)
    return unit[reached], targets[reached]


def draw_neighbours(space: KnobSpace, best: Array, model: Surrogate, rng: np.random.Generator, each: int) -> Array:
    """Return points around the `best`, shape (m, d), with a few moved knobs; half of them keep their log noise."""
    start = np.repeat(best, each, axis=0)
    step = np.exp(rng.uniform(math.log(0.01), math.log(0.3), size=(len(start), 1))) * rng.standard_normal(start.shape)
    moved = rng.random(start.shape) < max(0.3, 1.0 / start.shape[1])
    moved[np.arange(len(start)), rng.integers(start.shape[1], size=len(start))] = True
    unit = start + np.where(moved, step, 0.0)
    unit = np.where((unit < 0.0) | (unit > 1.0), np.clip(start - step, 0.0, 1.0), unit)
    for i, knob in enumerate(space.knobs):
        if knob.size < 16:  # a small step would never leave the choice
            unit[:, i] = np.where(moved[:, i], rng.random(len(unit)), start[:, i])
    if space.pivot is None:
        return unit
    half = np.arange(len(unit)) % 2 == 0
    kept, reached = space.solve(unit[half], model.axis(space.points(start[half])), model.theta.tilt)
    unit[half] = np.where(reached[:, None], kept, unit[half])
    return unit


def log_expected_improvement(mean: Array, sd: Array, incumbent: float) -> Array:
    """Return log E[max(incumbent - y, 0)] for y ~ N(mean, sd^2), stable far from the incumbent.

    Source: Ament et al. 2023, arXiv 2310.20708, eq. 9.
    """
    z = (incumbent - mean) / sd
    near = np.maximum(z, -1.0)
    close = np.log(np.exp(-0.5 * near * near) / math.sqrt(2 * math.pi) + near * ndtr(near))
    far = np.minimum(z, -1.0)
    # phi(z) + z Phi(z) = phi(z) (1 - |z| sqrt(pi/2) erfcx(|z|/sqrt2)); for |z| >> 1 the bracket is 1/z^2 (1 - 3/z^2)
    bracket = 1.0 + far * math.sqrt(math.pi / 2) * erfcx(-far / math.sqrt(2))
    tail = np.where(far > -1e3, np.log(np.maximum(bracket, 1e-300)), -2.0 * np.log(-far))
    distant = -0.5 * far * far - 0.5 * math.log(2 * math.pi) + tail
    return np.log(sd) + np.where(z > -1.0, close, distant)
