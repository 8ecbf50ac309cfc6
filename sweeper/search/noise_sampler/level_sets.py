"""Level sets of noise in a search space: points in the unit cube, their log noise, and the pivot that solves for it.

Symbols, for n points of a space with d knobs, of which k shift the noise besides the pivot:

=============  ========  =====================================================================
``unit``       (n, d)    coordinates in [0, 1]; log scale for log distributions
``log_noise``  (n,)      ln S of the chosen definition, [ln of the definition's unit]
``factors``    (n, k)    refinement of log noise, phi = ln S + factors @ tilt, centred: ln eta, -ln B,
                         -ln(1 - mu), ln lambda of those knobs; ln k_aug if the definition has it, else the
                         augmentation's strength; one indicator per choice of a nominal knob
``step``       (n,)      ln(eta / (1 - mu)), the step size that the curvature limits; 0 if eta does not vary
``proxy``      (n,)      1 for a trial with a share of the training budget, 0 for the full one
=============  ========  =====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from sweeper.search.k_aug import KAug
from sweeper.search.noise_sampler.encoding import FACTORS, Array, Knob, Mask, make_knob
from trainables.noise import NoiseScale

KAugOf = Callable[[Mapping[str, Any]], float]
Conditions = Mapping[str, Mapping[str, Sequence[Any]]]
"""Knob -> {other knob: values of the other knob for which the knob acts}."""
_TOP_MOMENTUM = 1.0 - 1e-6
_MOST_SHIFTS = 8  # a nominal knob with more choices does not shift the noise, to limit the unknowns


@dataclass(frozen=True)
class Points:
    """Points of a search space, see the table of this module."""

    unit: Array
    log_noise: Array
    factors: Array
    step: Array
    proxy: Array

    def __len__(self) -> int:
        return len(self.unit)

    def __getitem__(self, rows: Any) -> Points:
        return Points(self.unit[rows], self.log_noise[rows], self.factors[rows], self.step[rows], self.proxy[rows])

    def __add__(self, other: Points) -> Points:
        return Points(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def with_proxy(self, proxy: Any) -> Points:
        """Return the points with these marks of the proxy: one for all, or shape (n,)."""
        return replace(self, proxy=np.broadcast_to(np.asarray(proxy, dtype=float), (len(self),)))


@dataclass(frozen=True)
class KnobSpace:
    """A search space seen as unit cube and noise axis.

    Attributes:
        knobs: The parameters in the space's order.
        noise: Definition of the noise.
        fixed: Role (or `examples`) that the space does not vary -> its value.
        pivot: Position of the knob that solves for level sets and whose exponent stays as defined; None if no knob of
            the definition varies.
        k_aug: Parameters -> k_aug, for a definition that has it; None means 1.
        conditions: Knob -> {other knob: values of the other knob for which the knob acts}. An inactive knob lies in the
            middle of its range and does not enter the noise.
        absent: Knob -> number (see `Knob.number`) for trials without the knob.
        factor_roles: Names of the k factors: roles of knobs, `k_aug` if it varies, and `<knob>=<choice>` of nominal
            knobs.
        centre: Centres of the factors over their ranges, [1], shape (k,).
    """

    knobs: tuple[Knob, ...]
    noise: NoiseScale
    fixed: Mapping[str, float]
    k_aug: KAugOf | None = None
    conditions: Conditions = field(default_factory=lambda: {})
    absent: Mapping[str, float] = field(default_factory=lambda: {})
    pivot: int | None = field(init=False)
    factor_roles: tuple[str, ...] = field(init=False)
    centre: Array = field(init=False)

    def __post_init__(self) -> None:
        swing = {i: self._swing(i) for i, k in enumerate(self.knobs) if k.role in self.noise.knobs and k.size > 1}
        # a continuous knob can solve for any level; the one with the widest range reaches the most level sets
        order = sorted(swing, key=lambda i: (self._is_unconditional(i), not self.knobs[i].choices, swing[i]))
        pivot = order[-1] if order and swing[order[-1]] > 0 else None
        object.__setattr__(self, "pivot", pivot)
        object.__setattr__(self, "centre", np.zeros(0))
        roles, centre = (), np.zeros(0)
        if pivot is not None:
            corners = np.repeat([[0.0], [1.0]], len(self.knobs), axis=1)
            inside = np.random.default_rng(0).random((62, len(self.knobs)))
            drawn = self.numbers(np.concatenate([corners, inside]))
            columns = {role: column for role, column in self._columns(drawn).items() if float(np.ptp(column)) > 1e-9}
            roles = tuple(columns)
            centre = np.array([(column.min() + column.max()) / 2 for column in columns.values()])
        object.__setattr__(self, "factor_roles", roles)
        object.__setattr__(self, "centre", centre)

    def _is_unconditional(self, i: int) -> bool:
        return self.knobs[i].name not in self.conditions

    def _columns(self, numbers: Sequence[Array]) -> dict[str, Array]:
        # factors of n points before centring
        out: dict[str, Array] = {}
        active = self.find_active(numbers)
        for i, knob in enumerate(self.knobs):
            if knob.size <= 1 or i == self.pivot:
                continue
            if knob.nominal and knob.size <= _MOST_SHIFTS:
                taken = {f"{knob.name}={c}": (numbers[i] == j) & active[:, i] for j, c in enumerate(knob.choices)}
                out |= {name: column.astype(float) for name, column in taken.items()}
            elif knob.role is not None and knob.role in FACTORS:
                values = FACTORS[knob.role](knob.clip_legal(numbers[i]))
                middle = FACTORS[knob.role](knob.clip_legal(knob.decode(np.array([0.5]))))
                out[knob.role] = np.where(active[:, i], values, middle)
            elif knob.role == "augmentation" and "k_aug" not in self.noise.needs and not knob.nominal:
                out["augmentation"] = np.where(active[:, i], numbers[i], 0.0)
        if "k_aug" in self.noise.needs and self.k_aug is not None:
            out["k_aug"] = np.log(self._k_aug(numbers))
        return out

    def _swing(self, i: int) -> float:
        # change of ln S over the knob's range
        ends = np.full((2, len(self.knobs)), 0.5)
        ends[:, i] = 0.0, 1.0
        low, high = self._log_noise([k.decode(ends[:, j]) for j, k in enumerate(self.knobs)])
        return abs(float(high - low))

    def find_active(self, numbers: Sequence[Array]) -> Mask:
        """Return whether a knob acts at a point, shape (n, d)."""
        out = np.ones((len(numbers[0]) if numbers else 0, len(self.knobs)), dtype=bool)
        names = [knob.name for knob in self.knobs]
        # a deciding knob may itself be inactive, so the rounds follow chains of conditions
        for _ in range(len(self.conditions)):
            for name, needs in self.conditions.items():
                for other, values in needs.items():
                    j = names.index(other)
                    holds = np.isin(numbers[j], [self.knobs[j].number(v) for v in values])
                    out[:, names.index(name)] &= holds & out[:, j]
        return out

    def _k_aug(self, numbers: Sequence[Array]) -> Array:
        rows = len(numbers[0]) if numbers else 0
        if self.k_aug is None:
            return np.ones(rows)
        if isinstance(self.k_aug, KAug):
            return self.k_aug.of_columns(*self._augmentations(self.k_aug, numbers))
        values = [self.k_aug(self._params(numbers, row)) for row in range(rows)]
        if wrong := [v for v in values if not 0 < v < math.inf]:
            raise ValueError(f"k_aug must be > 0 and finite, got {wrong[0]!r}")
        return np.array(values, dtype=float)

    def _augmentations(self, k_aug: KAug, numbers: Sequence[Array]) -> tuple[list[str], Array]:
        # policy and strength of n points
        columns = {knob.name: (knob, column) for knob, column in zip(self.knobs, numbers, strict=True)}
        rows = len(numbers[0]) if numbers else 0
        policies, strengths = [k_aug.policy] * rows, np.full(rows, k_aug.strength)
        if "augmentation" in columns:
            policies = [str(value) for value in _values(*columns["augmentation"])]
        if "augmentation_strength" in columns:
            strengths = np.array([float(value) for value in _values(*columns["augmentation_strength"])])
        return policies, strengths

    def _params(self, numbers: Sequence[Array], row: int) -> dict[str, Any]:
        return {k.name: k.value(float(c[row])) for k, c in zip(self.knobs, numbers, strict=True)}

    def _settings(self, numbers: Sequence[Array]) -> dict[str, Any]:
        # inputs of the formula: constants, columns of varying knobs, and k_aug
        k_aug = {"k_aug": self._k_aug(numbers)} if "k_aug" in self.noise.needs else {}
        return {**self._knob_settings(numbers), **k_aug}

    def _knob_settings(self, numbers: Sequence[Array]) -> dict[str, Any]:
        constants = dict(self.fixed)
        if not constants["weight_decay"] > 0:
            constants["weight_decay"] = 1.0
        active, varied = self.find_active(numbers), {}
        for i, k in enumerate(self.knobs):
            if k.role is not None and k.role in FACTORS:
                varied[k.role] = np.where(active[:, i], k.clip_legal(numbers[i]), constants[k.role])
        return {**constants, **varied}

    def _log_noise(self, numbers: Sequence[Array]) -> Array:
        out = np.full(len(numbers[0]) if numbers else 0, math.log(self.noise.prefactor))
        for name, value in self.noise.factors(self._settings(numbers)).items():
            out = out + self.noise.exponents[name] * np.log(value)
        return out

    def numbers(self, unit: Array) -> list[Array]:
        """Return one column of numbers per knob, shape (n,)."""
        return [knob.decode(unit[:, i]) for i, knob in enumerate(self.knobs)]

    def points(self, unit: Array) -> Points:
        """Return the points of the space nearest to these coordinates."""
        numbers = self.numbers(unit)
        snapped = np.where(self.find_active(numbers), self._encode(numbers), 0.5)
        step, full = self._step(numbers), np.zeros(len(unit))
        if self.pivot is None:
            return Points(snapped, np.zeros(len(unit)), np.zeros((len(unit), 0)), step, full)
        columns = self._columns(numbers)
        factors = (
            np.stack([columns[role] for role in self.factor_roles], axis=1) - self.centre
            if self.factor_roles
            else np.zeros((len(unit), 0))
        )
        return Points(snapped, self._log_noise(numbers), factors, step, full)

    def _step(self, numbers: Sequence[Array]) -> Array:
        if not any(k.role == "learning_rate" and k.size > 1 for k in self.knobs):
            return np.zeros(len(numbers[0]) if numbers else 0)
        settings = self._knob_settings(numbers)
        return np.log(settings["learning_rate"]) - np.log1p(-np.minimum(settings["momentum"], _TOP_MOMENTUM))

    def units_of(self, trials: Sequence[Mapping[str, Any]]) -> tuple[Array, Mask]:
        """Return the coordinates of trials' parameters.

        Values outside a range get coordinates outside [0, 1], so that trials of a wider range still inform the model.

        Returns:
            The coordinates of the usable trials, shape (m, d), and a mask of these, shape (len(trials),). A usable
            trial has all knobs, with values that their distributions allow.
        """
        rows = [self._numbers_of(params) for params in trials]
        table = np.array([row for row in rows if row is not None], dtype=float).reshape(-1, len(self.knobs))
        usable = np.array([row is not None for row in rows], dtype=bool)
        columns = [table[:, i] for i in range(len(self.knobs))]
        unit = np.where(self.find_active(columns), self._encode(columns), 0.5)
        finite = np.isfinite(unit).all(axis=1)
        usable[np.flatnonzero(usable)[~finite]] = False
        return unit[finite], usable

    def _numbers_of(self, params: Mapping[str, Any]) -> list[float] | None:
        try:
            return [self._number_of(knob, params) for knob in self.knobs]
        except (KeyError, ValueError, TypeError):
            return None

    def _number_of(self, knob: Knob, params: Mapping[str, Any]) -> float:
        # a trial may lack a conditional knob that is inactive
        if knob.name in self.conditions and knob.name not in params:
            return float(knob.decode(np.array([0.5]))[0])
        if knob.name in self.absent and knob.name not in params:
            return self.absent[knob.name]
        return knob.number(params[knob.name])

    def _encode(self, numbers: Sequence[Array]) -> Array:
        return np.stack([knob.encode(column) for knob, column in zip(self.knobs, numbers, strict=True)], axis=1)

    def params_of(self, unit: Array) -> dict[str, Any]:
        """Return the parameters at the coordinates `unit`, shape (d,), clipped to the ranges."""
        return self._params(self.numbers(np.clip(unit[None, :], 0.0, 1.0)), 0)

    def solve(self, unit: Array, target: Array, tilt: Array) -> tuple[Array, Mask]:
        """Return the points with the pivot moved so that the refined log noises reach the targets.

        Args:
            unit: Coordinates, shape (n, d).
            target: Target ln S + factors @ tilt per point, shape (n,).
            tilt: Refinement of the exponents, shape (k,).

        Returns:
            The coordinates with the pivot inside its range, and whether they reach their targets, shape (n,).
        """
        if self.pivot is None or self.knobs[self.pivot].choices:
            return unit, np.ones(len(unit), dtype=bool)
        numbers, knob = self.numbers(unit), self.knobs[self.pivot]
        assert knob.role is not None
        wanted = target - self.points(unit).factors @ tilt
        with np.errstate(over="ignore", invalid="ignore"):
            coordinate = knob.encode(self._solve_role(knob.role, wanted, numbers))
        reached = (coordinate >= 0.0) & (coordinate <= 1.0)
        out = unit.copy()
        out[:, self.pivot] = np.where(np.isnan(coordinate), unit[:, self.pivot], np.clip(coordinate, 0.0, 1.0))
        return out, reached

    def _solve_role(self, role: str, log_noise: Array, numbers: Sequence[Array]) -> Array:
        # values of the pivot at these log noises, NaN without a legal value
        settings = self._settings(numbers)
        if role in self.noise.exponents:  # log noise is linear in the logarithm of a knob that is itself a factor
            gap = (log_noise - self._log_noise(numbers)) / self.noise.exponents[role]
            return np.asarray(settings[role] * np.exp(gap))
        rows = [
            {k: float(np.broadcast_to(v, len(log_noise))[i]) for k, v in settings.items()}
            for i in range(len(log_noise))
        ]
        return np.array([self._solve_point(role, math.exp(x), row) for x, row in zip(log_noise, rows, strict=True)])

    def _solve_point(self, role: str, noise: float, settings: Mapping[str, float]) -> float:
        try:
            return self.noise.solve(role, noise, settings)
        except ValueError:  # no legal value of this knob reaches that noise
            return math.nan


def _values(knob: Knob, numbers: Array) -> list[Any]:
    if not knob.choices:
        return numbers.tolist()
    known = {number: knob.value(number) for number in np.unique(numbers).tolist()}
    return [known[number] for number in numbers.tolist()]


def make_knob_space(
    space: Mapping[str, BaseDistribution],
    noise: NoiseScale,
    names: Mapping[str, str | None],
    fixed: Mapping[str, float],
    k_aug: KAugOf | None = None,
    conditions: Conditions | None = None,
    missing: Mapping[str, float | None] | None = None,
) -> KnobSpace:
    """Return the knob space of a search space.

    Args:
        space: Parameter name -> Optuna distribution.
        noise: Definition of the noise.
        names: Parameter name -> role; None removes the role.
        fixed: Values of constants that the space does not vary.
        k_aug: Parameters -> k_aug; None means 1.
        conditions: Knob of the space -> {other knob: values of the other knob for which the knob acts}.
        missing: Knob that some trials lack -> their value; None means the middle of its range.

    Raises:
        ValueError: Two parameters share a role, a choice is not a number but the formula needs one, or values lie
            outside the role's domain.
    """
    knobs: list[Knob] = []
    for name, distribution in space.items():
        knob = make_knob(name, distribution, names.get(name))
        # a policy and its strength may share the role augmentation, which no formula reads
        if knob.role in FACTORS and (twin := next((k for k in knobs if k.role == knob.role), None)):
            raise ValueError(
                f"{twin.name!r} and {name!r} both have the role {knob.role}; "
                f"remove it from one of them, such as knobs={{{name!r}: None}}"
            )
        knobs.append(knob)
    known = {k: dict(needs) for k, needs in (conditions or {}).items() if k in space}
    absent = {k.name: _absent_number(k, missing[k.name]) for k in knobs if missing and k.name in missing}
    return KnobSpace(tuple(knobs), noise, fixed, k_aug, known, absent)


def _absent_number(knob: Knob, value: float | None) -> float:
    if value is not None and (not knob.choices or value in knob.levels):
        return float(value)
    return float(knob.decode(np.array([0.5]))[0])
