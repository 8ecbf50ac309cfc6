"""Optimum of a surrogate over the knobs that are free, within what was tried and below the limit of stability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sweeper.analysis.settings.surrogate import Array, Mask, SweepModel
from sweeper.errors import SpecError
from sweeper.formatting import number
from sweeper.search.noise_sampler.candidates import draw_neighbours, find_best_points, sobol
from sweeper.search.noise_sampler.encoding import FACTORS, Rows
from sweeper.search.noise_sampler.fit import given_exponent
from sweeper.search.noise_sampler.surrogate import one_thread

CAUTION = 0.5
"""Posterior sds that the optimum adds to the mean: it prefers the surely good to the possibly better."""
_FILLING, _LEVELS, _EACH, _NEAR, _KEPT = 1024, 8, 32, 64, 256
_ROUNDS, _TOP, _CHILDREN = 8, 6, 32
_GRID, _DRAWS = 81, 60
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Region:
    """Where the optimum may lie.

    Attributes:
        model: The surrogates.
        fixed: Knob -> value that it must have, and with which it must act.
        log_step: Logarithm of the limit of the step size η/(1−μ); inf without one.
        most_examples: Largest batch size; inf if unknown.
    """

    model: SweepModel
    fixed: Mapping[str, Any]
    log_step: float
    most_examples: float

    @cached_property
    def columns(self) -> dict[int, float]:
        """Position of a fixed knob -> its coordinate."""
        return {
            i: float(knob.encode(np.array([knob.number(self.fixed[knob.name])]))[0])
            for i, knob in enumerate(self.model.space.knobs)
            if knob.name in self.fixed
        }

    @cached_property
    def tried(self) -> tuple[Array, Array]:
        """Ends of the coordinates of the viable pairs in which a knob acts, two arrays of shape (d,).

        A knob that acts in none has the ends 1 and 0, so that no coordinate lies between.
        """
        space, good = self.model.space, self.model.good
        active = space.find_active(space.numbers(good))
        low = np.where(active, good, np.inf).min(axis=0)
        high = np.where(active, good, -np.inf).max(axis=0)
        return np.where(low <= high, low, 1.0), np.where(low <= high, high, 0.0)

    def place(self, unit: Array) -> Array:
        """Return the nearest coordinates with the fixed values and, for the others, inside the tried range."""
        low, high = self.tried
        out = unit.copy()
        for i, knob in enumerate(self.model.space.knobs):
            if i in self.columns:
                out[:, i] = self.columns[i]
            elif not knob.nominal and low[i] <= high[i]:
                out[:, i] = np.clip(out[:, i], low[i], high[i])
        return self.model.space.points(out).unit

    def log_steps(self, unit: Array) -> Array:
        """Return ln(η/(1−μ)) at coordinates of shape (n, d), shape (n,)."""
        space = self.model.space
        numbers, values = space.numbers(unit), dict(space.fixed)
        active = space.find_active(numbers)
        columns = {k.role: np.where(active[:, i], k.clip_legal(numbers[i]), values.get(str(k.role), 0.0))
                   for i, k in enumerate(space.knobs) if k.role in ("learning_rate", "momentum")}  # fmt: skip
        rate, momentum = (columns.get(r, np.full(len(unit), values[r])) for r in ("learning_rate", "momentum"))
        return np.log(rate) - np.log1p(-momentum)

    def holds(self, unit: Array) -> Mask:
        """Return which coordinates of shape (n, d) lie in the region, shape (n,)."""
        space, good, columns = self.model.space, self.model.good, self.columns
        low, high = self.tried
        numbers = space.numbers(unit)
        active = space.find_active(numbers)
        mask: Mask = self.log_steps(unit) < self.log_step - _ROUNDING
        for i, knob in enumerate(space.knobs):
            if i in columns:
                mask &= active[:, i]
            elif knob.nominal:
                mask &= ~active[:, i] | np.isin(numbers[i], knob.decode(good[:, i]))
            else:
                mask &= ~active[:, i] | ((unit[:, i] >= low[i] - _ROUNDING) & (unit[:, i] <= high[i] + _ROUNDING))
            if knob.role == "batch_size":
                mask &= numbers[i] <= self.most_examples
        return mask & self.model.find_feasible(unit)

    def params_of(self, unit: Array) -> dict[str, Any]:
        """Return the values of the knobs that act at coordinates of shape (d,)."""
        space = self.model.space
        numbers = space.numbers(unit[None, :])
        active = space.find_active(numbers)[0]
        values = {
            knob.name: self.fixed.get(knob.name, knob.value(float(column[0])))
            for knob, column in zip(space.knobs, numbers, strict=True)
        }
        return {knob.name: values[knob.name] for knob, acts in zip(space.knobs, active, strict=True) if acts}


@dataclass(frozen=True)
class _Start:
    """Candidates that all regions of a model share, and the state of the generator after them.

    Attributes:
        filling: Coordinates that fill the space.
        levels: Promising refined log noises; None if no noise varies.
        spread: Coordinates to move to these levels.
        near: Neighbours of the best pairs.
        state: State of the generator.
    """

    filling: Array
    levels: Array | None
    spread: Array
    near: Array
    state: Mapping[str, Any]


def _draw_start(model: SweepModel, seed: int) -> _Start:
    space, main, rng = model.space, model.first.fit.model, np.random.default_rng([seed, 0xBE57])
    filling = sobol(_FILLING, len(space.knobs), rng)
    draws = model.first.fit.draw_best(model.first.models, rng)
    levels, spread = None, np.zeros((0, len(space.knobs)))
    if draws is not None:
        levels = np.quantile(draws.refined, np.linspace(0.05, 0.95, _LEVELS))
        spread = sobol(_LEVELS * _EACH, len(space.knobs), rng)
    near = draw_neighbours(space, find_best_points(main, 5), main, rng, _NEAR)
    return _Start(filling, levels, spread, near, rng.bit_generator.state)


def risk(model: SweepModel, unit: Array) -> Array:
    """Return posterior mean plus `CAUTION` sds of the first score, transformed, smaller is better, shape (n,)."""
    mean, sd = model.first.predict(unit)
    return mean + CAUTION * sd


def optimise_settings(region: Region, seed: int = 0) -> Array:
    """Return the coordinates, shape (d,), of least risk in a region; a function of its arguments.

    Candidates are the tried pairs, level sets of promising noise, a Sobol sequence and neighbours of the best pairs;
    rounds of neighbours refine the best of them. The risk is that of `risk`, averaged over hyperparameters.

    Raises:
        SpecError: The region is empty.
    """
    model = region.model
    space, main = model.space, model.first.fit.model
    with one_thread():
        start = model.share("start", seed, _draw_start)
        rng = np.random.default_rng()
        rng.bit_generator.state = start.state
        parts = [np.clip(model.good, 0.0, 1.0), start.filling]
        if start.levels is not None:
            placed = region.place(start.spread)
            parts.append(space.solve(placed, np.resize(start.levels, len(placed)), main.theta.tilt)[0])
        parts.append(start.near)
        unit = _keep(region, np.concatenate(parts))
        if not len(unit):
            raise SpecError(_explain_empty(region))
        mean, sd = main.predict(space.points(unit))
        unit = unit[np.argsort(mean + CAUTION * sd, kind="stable")[:_KEPT]]
        risks = risk(model, unit)
        for _ in range(_ROUNDS):
            top = unit[np.argsort(risks, kind="stable")[:_TOP]]
            more = _keep(region, draw_neighbours(space, np.clip(top, 0.0, 1.0), main, rng, _CHILDREN))
            if len(more):
                unit, risks = np.concatenate([unit, more]), np.concatenate([risks, risk(model, more)])
    return unit[int(np.argmin(risks))]


def _keep(region: Region, unit: Array) -> Array:
    placed = region.place(unit)
    return np.unique(placed[region.holds(placed)], axis=0)


def _explain_empty(region: Region) -> str:
    given = ", ".join(f"{name} {value:g}" for name, value in region.fixed.items())
    bound = "" if math.isinf(region.log_step) else number(math.exp(region.log_step))
    limit = f" below the limit of stability η/(1−μ) = {bound}" if bound else ""
    if not given:
        return f"no tried setting stays{limit or ' within the limits of the sweep'}; run more trials"
    return f"no tried values of the other knobs go with {given}{limit}; fix fewer knobs, or other values"


def learning_rate_interval(region: Region, best: Array, seed: int = 0) -> tuple[float, float] | None:
    """Return the 90 % interval of the best learning rate with the other values of `best`, shape (d,).

    Draws of the surrogate, over its hyperparameters and so over its refined exponents, each have a best learning rate
    within the tried range. Its interval widens by the uncertainty of the single-index exponents, which the surrogate
    underrates: half an exponent's interval times the distance of its factor from the pairs' mean, in quadrature.

    Returns:
        Ends of the interval; None if the learning rate is fixed or not searched.
    """
    space, models = region.model.space, region.model.first.models
    i = next((i for i, k in enumerate(space.knobs) if k.role == "learning_rate" and k.size > 1), None)
    if i is None or space.knobs[i].name in region.fixed:
        return None
    rng = np.random.default_rng([seed, 0x1A7E])
    low, high = region.tried
    unit = np.repeat(best[None, :], _GRID, axis=0)
    unit[:, i] = np.linspace(low[i], high[i], _GRID)
    unit = np.unique(np.concatenate([region.place(unit), best[None, :]]), axis=0)
    unit = unit[region.holds(unit)]
    points = space.points(unit)
    found: list[Rows] = []
    with one_thread():
        for model in models:
            values, vectors = np.linalg.eigh(model.covariance(points, points))
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            drawn = model.predict(points)[0] + rng.standard_normal((_DRAWS, len(unit))) @ root.T
            found.append(np.asarray(drawn.argmin(axis=1)))
        rates = np.log(space.knobs[i].clip_legal(space.knobs[i].decode(unit[np.concatenate(found), i])))
        middle = float(np.log(space.knobs[i].decode(best[[i]]))[0])
        start, end = (float(q) for q in np.quantile(rates, [0.05, 0.95]))
        more = _exponent_error(region, best, seed)
    return (
        math.exp(middle - math.hypot(max(middle - start, 0.0), more)),
        math.exp(middle + math.hypot(max(end - middle, 0.0), more)),
    )


def _exponent_error(region: Region, best: Array, seed: int) -> float:
    # half width of the learning rate's interval by the exponents alone, in nats
    model = region.model
    space = model.space
    fit = model.fit_exponents(seed)
    own = abs(given_exponent(space, "learning_rate"))
    if fit is None or not own:
        return 0.0
    away = space.points(best[None, :]).factors[0] - space.points(model.good).factors.mean(axis=0)
    half = {role: (h - low) / 2 for role, low, h in zip(fit.roles, fit.low, fit.high, strict=True)}
    parts = [
        half[role] * float(gap)
        for role, gap in zip(space.factor_roles, away, strict=True)
        if role in half and role != "learning_rate" and (role in FACTORS or role == "k_aug")
    ]
    return math.hypot(*parts) / own if parts else 0.0
