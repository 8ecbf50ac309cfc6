"""The noise axis of a search space: its points in the unit cube, their log noise, and level sets of it.

Symbols, for n points of a space with d knobs, of which k shift the noise besides the pivot:

=============  ========  =====================================================================
``unit``       (n, d)    coordinates in [0, 1]; log scale where the distribution has it
``log_noise``  (n,)      ln S of the chosen definition, [ln of the definition's unit]
``factors``    (n, k)    ln eta, -ln B, -ln(1 - mu), ln lambda of those knobs and, where the definition
                         has it, ln k_aug of the point, centred;
                         log noise is refined as phi = ln S + factors @ tilt
=============  ========  =====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from trainables.noise import NoiseScale

from .knobs import FACTORS, Array, Knob, Mask, knob_of

KAugOf = Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True)
class Points:
    """Points of a search space, as the table of this module describes them."""

    unit: Array
    log_noise: Array
    factors: Array

    def __len__(self) -> int:
        return len(self.unit)

    def __getitem__(self, rows: Any) -> Points:
        return Points(self.unit[rows], self.log_noise[rows], self.factors[rows])

    def __add__(self, other: Points) -> Points:
        pairs = ((self.unit, other.unit), (self.log_noise, other.log_noise), (self.factors, other.factors))
        return Points(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class KnobSpace:
    """A search space seen as unit cube and noise axis.

    Attributes:
        knobs: The parameters in the space's order.
        noise: Definition of the noise.
        fixed: Roles (and `examples`) that the space does not vary, with their values.
        pivot: Position of the knob whose exponent is taken as given and that level sets are solved for; None where
            no knob of the definition varies.
        k_aug: Parameters -> k_aug, for a definition that has it; None is 1 everywhere.
        factor_knobs: Positions of the knobs whose exponents may be refined.
        factor_roles: What each factor belongs to, k names: the roles of those knobs, then `k_aug` where it varies.
        centre: Centre of each factor over its range, [1], shape (k,).
    """

    knobs: tuple[Knob, ...]
    noise: NoiseScale
    fixed: Mapping[str, float]
    k_aug: KAugOf | None = None
    pivot: int | None = field(init=False)
    factor_knobs: tuple[int, ...] = field(init=False)
    factor_roles: tuple[str, ...] = field(init=False)
    centre: Array = field(init=False)

    def __post_init__(self) -> None:
        swing = {i: self._swing(i) for i, k in enumerate(self.knobs) if k.role in self.noise.knobs and k.size > 1}
        # a knob that takes any value can be solved for; among those the widest reaches the most level sets
        order = sorted(swing, key=lambda i: (not self.knobs[i].choices, swing[i]))
        pivot = order[-1] if order and swing[order[-1]] > 0 else None
        shifts = [i for i, k in enumerate(self.knobs) if k.role in FACTORS and k.size > 1 and i != pivot]
        others = () if pivot is None else tuple(shifts)
        object.__setattr__(self, "pivot", pivot)
        object.__setattr__(self, "factor_knobs", others)
        ends = [self._factor(i, self.knobs[i].decode(np.array([0.0, 1.0]))) for i in others]
        roles = [str(self.knobs[i].role) for i in others]
        if pivot is not None and self.k_aug is not None and "k_aug" in self.noise.needs:
            drawn = np.log(self._k_aug(self.numbers(np.random.default_rng(0).random((64, len(self.knobs))))))
            if float(np.ptp(drawn)) > 1e-9:
                roles.append("k_aug")
                ends.append(np.array([drawn.min(), drawn.max()]))
        object.__setattr__(self, "factor_roles", tuple(roles))
        object.__setattr__(self, "centre", np.array([end.mean() for end in ends]))

    def _swing(self, i: int) -> float:
        # how far the knob alone moves ln S
        ends = np.full((2, len(self.knobs)), 0.5)
        ends[:, i] = 0.0, 1.0
        low, high = self._log_noise([k.decode(ends[:, j]) for j, k in enumerate(self.knobs)])
        return abs(float(high - low))

    def _factor(self, i: int, numbers: Array) -> Array:
        role = self.knobs[i].role
        assert role is not None
        return FACTORS[role](self.knobs[i].legal(numbers))

    def _k_aug(self, numbers: Sequence[Array]) -> Array:
        rows = len(numbers[0]) if numbers else 0
        if self.k_aug is None:
            return np.ones(rows)
        values = [self.k_aug(self._params(numbers, row)) for row in range(rows)]
        if wrong := [v for v in values if not 0 < v < math.inf]:
            raise ValueError(f"k_aug must be > 0 and finite, got {wrong[0]!r}")
        return np.array(values, dtype=float)

    def _params(self, numbers: Sequence[Array], row: int) -> dict[str, Any]:
        return {k.name: k.value(float(c[row])) for k, c in zip(self.knobs, numbers, strict=True)}

    def _settings(self, numbers: Sequence[Array]) -> Iterable[dict[str, float]]:
        constants = dict(self.fixed)
        if not constants["weight_decay"] > 0:
            constants["weight_decay"] = 1.0
        varied = {k.role: k.legal(numbers[i]).tolist() for i, k in enumerate(self.knobs) if k.role in FACTORS}
        if "k_aug" in self.noise.needs:
            varied["k_aug"] = self._k_aug(numbers).tolist()
        for row in range(len(numbers[0]) if numbers else 0):
            yield {**constants, **{str(role): column[row] for role, column in varied.items()}}

    def _log_noise(self, numbers: Sequence[Array]) -> Array:
        return np.array([math.log(self.noise.predict(settings)) for settings in self._settings(numbers)])

    def numbers(self, unit: Array) -> list[Array]:
        """Return one column of numbers per knob, each of shape (n,)."""
        return [knob.decode(unit[:, i]) for i, knob in enumerate(self.knobs)]

    def points(self, unit: Array) -> Points:
        """Return the points nearest to these coordinates that the space holds."""
        numbers = self.numbers(unit)
        snapped = self._encoded(numbers)
        if self.pivot is None:
            return Points(snapped, np.zeros(len(unit)), np.zeros((len(unit), 0)))
        columns = [self._factor(i, numbers[i]) for i in self.factor_knobs]
        if "k_aug" in self.factor_roles:
            columns.append(np.log(self._k_aug(numbers)))
        factors = np.stack(columns, axis=1) - self.centre if columns else np.zeros((len(unit), 0))
        return Points(snapped, self._log_noise(numbers), factors)

    def units_of(self, trials: Sequence[Mapping[str, Any]]) -> tuple[Array, Mask]:
        """Return where the parameters of trials lie.

        Values outside a range count as its end, so that results from a wider range still teach.

        Returns:
            The coordinates of the usable ones, shape (m, d), and which are usable, shape (len(trials),): those that
            have every knob, with a value that its distribution can hold.
        """
        rows = [self._numbers_of(params) for params in trials]
        table = np.array([row for row in rows if row is not None], dtype=float).reshape(-1, len(self.knobs))
        usable = np.array([row is not None for row in rows], dtype=bool)
        unit = np.clip(self._encoded([table[:, i] for i in range(len(self.knobs))]), 0.0, 1.0)
        finite = np.isfinite(unit).all(axis=1)
        usable[np.flatnonzero(usable)[~finite]] = False
        return unit[finite], usable

    def _numbers_of(self, params: Mapping[str, Any]) -> list[float] | None:
        try:
            return [knob.number(params[knob.name]) for knob in self.knobs]
        except (KeyError, ValueError, TypeError):
            return None

    def _encoded(self, numbers: Sequence[Array]) -> Array:
        return np.stack([knob.encode(column) for knob, column in zip(self.knobs, numbers, strict=True)], axis=1)

    def params_of(self, unit: Array) -> dict[str, Any]:
        """Return the parameters at the coordinates `unit`, shape (d,)."""
        return self._params(self.numbers(unit[None, :]), 0)

    def solve(self, unit: Array, target: Array, tilt: Array) -> tuple[Array, Mask]:
        """Move the pivot of each point so that its refined log noise is the target.

        Args:
            unit: Coordinates, shape (n, d).
            target: Wanted ln S + factors @ tilt of each point, shape (n,).
            tilt: Refinement of the exponents, shape (k,).

        Returns:
            The coordinates, with the pivot held inside its range, and which of the targets are reached, shape (n,).
        """
        if self.pivot is None or self.knobs[self.pivot].choices:
            return unit, np.ones(len(unit), dtype=bool)
        numbers, knob = self.numbers(unit), self.knobs[self.pivot]
        shift = self.points(unit).factors @ tilt
        noises = np.exp(target - shift)
        wanted = [self._solved(noise, s) for noise, s in zip(noises, self._settings(numbers), strict=True)]
        coordinate = knob.encode(np.array(wanted))
        reached = (coordinate >= 0.0) & (coordinate <= 1.0)
        out = unit.copy()
        out[:, self.pivot] = np.where(np.isnan(coordinate), unit[:, self.pivot], np.clip(coordinate, 0.0, 1.0))
        return out, reached

    def _solved(self, noise: float, settings: Mapping[str, float]) -> float:
        role = self.knobs[self.pivot or 0].role
        assert role is not None
        try:
            return self.noise.solve(role, noise, settings)
        except ValueError:  # no legal value of this knob reaches that noise
            return math.nan


def knob_space(
    space: Mapping[str, BaseDistribution],
    noise: NoiseScale,
    names: Mapping[str, str | None],
    fixed: Mapping[str, float],
    k_aug: KAugOf | None = None,
) -> KnobSpace:
    """Read a search space.

    Args:
        space: Parameter name -> Optuna distribution.
        noise: Definition of the noise.
        names: Parameter name -> role; None takes the role away.
        fixed: Values of what the space does not vary.
        k_aug: Parameters -> k_aug; None is 1 everywhere.

    Raises:
        ValueError: Two parameters of one role, a choice that is not a number where the formula needs one, or values
            outside what the role allows.
    """
    knobs: list[Knob] = []
    for name, distribution in space.items():
        knob = knob_of(name, distribution, names.get(name))
        # a policy and its strength may both be an augmentation: no formula reads them
        if knob.role in FACTORS and (twin := next((k for k in knobs if k.role == knob.role), None)):
            raise ValueError(
                f"{twin.name!r} and {name!r} both have the role {knob.role}; "
                f"take it from one of them, such as knobs={{{name!r}: None}}"
            )
        knobs.append(knob)
    return KnobSpace(tuple(knobs), noise, fixed, k_aug)
