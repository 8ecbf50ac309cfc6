"""Acquisition: the next candidate by log expected improvement and feasibility, or a repeat of one of the best."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr

from sweeper.search.noise_sampler.candidates import (
    REPEAT,
    draw_neighbours,
    find_inside,
    log_expected_improvement,
    propose,
)
from sweeper.search.noise_sampler.encoding import Array
from sweeper.search.noise_sampler.level_sets import KnobSpace, Points
from sweeper.search.noise_sampler.prior import NoisePrior
from sweeper.search.noise_sampler.study_attrs import point_keys
from sweeper.search.noise_sampler.surrogate import Surrogate

CHECKS = 2
"""First trials in full after a map at a share of the budget: they test the best settings that the map predicts."""
_REFINEMENTS, _REFINED, _CHILDREN, _INCUMBENTS = 2, 4, 24, 3
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(21)


@dataclass(frozen=True)
class Choice:
    """A proposal: its coordinates, shape (d,), its origin, and its target log noise (NaN without a target)."""

    unit: Array
    origin: str
    level: float


@dataclass(frozen=True)
class Aims:
    """Inputs of a choice.

    Attributes:
        space: The search space.
        models: Surrogate of the finished trials, and variants of it over which the improvement is averaged.
        running: Running trials, perhaps of a proxy, assumed to return the model's expectation.
        limits: Surrogates of the constraints, feasible up to 0.
        levels: Promising refined log noises, shape (m,); empty disables level sets.
        prior: Prior of the best noise with the reachable range, or None.
        trust: Exponent of the prior, which fades with the trials.
        repeats: Whether the choice may repeat a finished configuration.
    """

    space: KnobSpace
    models: Sequence[Surrogate]
    running: Points
    limits: Sequence[Surrogate]
    levels: Array
    prior: tuple[NoisePrior, float, float] | None
    trust: float
    repeats: bool


def choose(aims: Aims, taken: Collection[tuple[float, ...]], rng: np.random.Generator) -> Choice:
    """Return the candidate with the largest log expected improvement, weighted by feasibility and prior.

    The weights are the probability of feasibility (Gardner et al. 2014, eq. 6) and the prior to a fading power
    (Hvarfner et al. 2022, arXiv 2204.11051, eq. 6). With noisy observations, a repeat of one of the best finished
    configurations may promise a better recommendation (`knowledge_gradient`); the choice is then that repeat. After a
    map by a proxy, the first `CHECKS` choices in full have the lowest posterior mean.
    """
    space, model = aims.space, aims.models[0]
    conditioned = [m.condition_on(aims.running) for m in aims.models]
    # trials of an earlier, wider range, or of a proxy, inform the model, but are not candidates
    known = model.judged
    held = known[np.flatnonzero(find_inside(known))]
    seen = model.predict(held)[0]
    feasible = _log_feasible(aims.limits, held)
    incumbent = float(seen[feasible > np.log(0.5)].min(initial=np.inf))
    incumbent = incumbent if np.isfinite(incumbent) else float(seen.min())

    in_full, running = int((model.points.proxy == 0).sum()), aims.running[aims.running.proxy == 0]
    checking = in_full < len(model.points) and in_full + len(running) < CHECKS

    def score(points: Points) -> Array:
        if checking:
            return _log_feasible(aims.limits, points) - np.mean([b.predict(points)[0] for b in conditioned], axis=0)
        each = [log_expected_improvement(*b.predict(points), incumbent) for b in conditioned]
        out = np.logaddexp.reduce(each, axis=0) + _log_feasible(aims.limits, points)
        if aims.prior and aims.trust:
            prior, low, high = aims.prior
            out = out + aims.trust * prior.log_density(model.axis(points), low, high)
        return out

    pool = propose(space, model, aims.levels, rng)
    scores = score(pool.points)
    for _ in range(_REFINEMENTS):
        top = np.argsort(-scores, kind="stable")[:_REFINED]
        more = space.points(draw_neighbours(space, pool.points.unit[top], model, rng, _CHILDREN))
        pool = pool.extend(more, np.repeat(top, _CHILDREN))
        scores = np.concatenate([scores, score(more)])
    order, names = np.argsort(-scores, kind="stable"), point_keys(pool.points.unit)
    best = next((int(i) for i in order if names[i] not in taken), None)
    if best is None:  # all candidates have been tried
        best = int(order[0])
    elif not aims.repeats or checking or not in_full:
        return Choice(pool.points.unit[best], pool.origin[best], float(pool.level[best]))
    repeated = {*point_keys(running.unit)}  # one repeat of a configuration at a time
    free = np.array([key not in repeated for key in point_keys(held.unit)], dtype=bool)
    again = np.argsort(np.where(free & (feasible > np.log(0.5)), seen, np.inf), kind="stable")[:_INCUMBENTS]
    few = held[again] + pool.points[[best]]
    gains = knowledge_gradient(conditioned[0], few)
    if aims.repeats and free[again].any() and gains[:-1].max() > gains[-1]:
        return Choice(few.unit[int(gains[:-1].argmax())], REPEAT, float("nan"))
    return Choice(pool.points.unit[best], pool.origin[best], float(pool.level[best]))


def _log_feasible(limits: Sequence[Surrogate], points: Points) -> Array:
    out = np.zeros(len(points))
    for limit in limits:
        mean, sd = limit.predict(points)
        out += log_ndtr(-mean / sd)
    return out


def knowledge_gradient(model: Surrogate, points: Points) -> Array:
    """Return the expected decrease of the least posterior mean of the evaluated points after one more evaluation.

    A point may have an evaluation already: a repeat reduces the uncertainty of its value.

    Returns:
        Expected decreases, >= 0, shape (n,).

    Source: Frazier, Powell & Dayanik 2009, eq. 12, over the evaluated points and the new one, by quadrature.
    """
    known = model.judged
    mean, cross = model.predict(known)[0], model.covariance(known, points)
    variance, (ahead, sd) = model.covariance(points, points), model.predict(points)
    noise = model.theta.seed_noise**2
    gains = np.zeros(len(points))
    for i in range(len(points)):
        shift = np.concatenate([cross[:, i], variance[i, i : i + 1]]) / np.sqrt(sd[i] ** 2 + noise)
        after = np.concatenate([mean, ahead[i : i + 1]])[:, None] + shift[:, None] * _NODES[None, :]
        gains[i] = mean.min() - float(after.min(axis=0) @ _WEIGHTS) / np.sqrt(2 * np.pi)
    return np.maximum(gains, 0.0)
