"""Knobs as numbers: each parameter of a search space as one coordinate in [0, 1], and its role for the noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweeper.formatting import exact_text
from trainables.registry import unknown

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]

ROLES = ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation")
"""Roles of a knob; `augmentation` enters `paper_aug` through k_aug and the other noises as a residual."""
DEFAULT_NAMES: Mapping[str, str] = {**{role: role for role in ROLES}, "augmentation_strength": "augmentation"}
"""Parameter name -> default role."""
# a decay of 0 shifts ln S by a constant, and a constant does not move the best point
DEFAULT_FIXED: Mapping[str, float] = {
    "learning_rate": 1.0,
    "batch_size": 1.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "examples": 1.0,
    "beta1": 0.9,
}

_ROUNDING = 1e-9
_SMALLEST = 1e-4  # a range that starts at 0 counts as starting at this fraction of its end
_FIXED_RANGES = {"momentum": (0.0, 1.0), "beta1": (0.0, 1.0), "weight_decay": (0.0, math.inf)}
FACTORS: Mapping[str, Callable[[Array], Array]] = {
    "learning_rate": np.log,
    "batch_size": lambda batch: -np.log(batch),
    "momentum": lambda mu: -np.log1p(-mu),
    "weight_decay": np.log,
}


@dataclass(frozen=True)
class Knob:
    """One parameter of a search space as one coordinate in [0, 1].

    Attributes:
        name: Name of the parameter.
        distribution: Distribution of its values.
        role: One of `ROLES`, or None for an ordinary knob.
        levels: Numeric choices in ascending order (ordinal), else empty.
    """

    name: str
    distribution: BaseDistribution
    role: str | None
    levels: tuple[float, ...] = ()

    @property
    def choices(self) -> tuple[Any, ...]:
        """Choices of a categorical knob, else empty."""
        return tuple(self.distribution.choices) if isinstance(self.distribution, CategoricalDistribution) else ()

    @property
    def nominal(self) -> bool:
        """Whether the values are choices without an order."""
        return bool(self.choices) and not self.levels

    @property
    def size(self) -> float:
        """Number of different values, inf for a continuous range."""
        if self.choices:
            return len(self.choices)
        low, high, step = self._range()
        if step is None:
            return math.inf if high > low else 1
        return round((high - low) / step) + 1

    def _range(self) -> tuple[float, float, float | None]:
        d = self.distribution
        assert isinstance(d, FloatDistribution | IntDistribution)
        return float(d.low), float(d.high), None if d.step is None else float(d.step)

    def _scale(self) -> tuple[bool, float, float]:
        low, high, step = self._range()
        half = 0.0 if step is None else step / 2.0  # every whole value gets an equal share of the range
        log = bool(getattr(self.distribution, "log", False))
        low, high = low - half, high + half
        return (True, math.log(low), math.log(high)) if log else (False, low, high)

    def decode(self, unit: Array) -> Array:
        """Return the number at each coordinate: the value, or for nominal choices their index.

        A coordinate outside [0, 1] means a value outside the range, such as one of an earlier, wider range.
        """
        if self.choices:
            count = len(self.choices)
            index = np.clip(np.floor(unit * count), 0, count - 1)
            return np.asarray(self.levels)[index.astype(int)] if self.levels else index
        log, start, end = self._scale()
        value = start + unit * (end - start)
        value = np.exp(value) if log else value
        low, high, step = self._range()
        if step is not None:
            value = low + np.round((value - low) / step) * step
        return np.where(lies_within(unit), np.clip(value, low, high), value)

    def encode(self, number: Array) -> Array:
        """Return the coordinate of each number; the inverse of `decode`, not clipped."""
        if self.choices:
            index = np.searchsorted(self.levels, number) if self.levels else number
            return (index + 0.5) / len(self.choices)
        log, start, end = self._scale()
        if end <= start:
            return np.full_like(number, 0.5)
        with np.errstate(divide="ignore", invalid="ignore"):
            return ((np.log(number) if log else number) - start) / (end - start)

    def clip_legal(self, numbers: Array) -> Array:
        """Return the numbers clipped to where the role's factor is finite: momentum below 1, the others above 0."""
        if self.role == "momentum":
            return np.minimum(numbers, 1.0 - 1e-6)
        if self.role not in FACTORS:
            return numbers
        top = max(self.levels) if self.levels else self._range()[1]
        return np.maximum(numbers, _SMALLEST * top if top > 0 else 1.0)

    def grid(self) -> Array:
        """Return the coordinate of every value of a finite knob, shape (size,)."""
        count = np.arange(int(self.size), dtype=float)
        if self.choices:
            return (count + 0.5) / len(count)
        low, _, step = self._range()
        return self.encode(low + count * (step or 1.0))

    def number(self, value: Any) -> float:
        """Return a parameter value as the number that `decode` gives for it.

        Raises:
            ValueError: The distribution does not have this choice.
        """
        index = float(self.distribution.to_internal_repr(value))
        return index if self.nominal or not self.levels else float(value)

    def value(self, number: float) -> Any:
        """Return the parameter value for a number from `decode`, in the type that Optuna expects."""
        if self.choices:
            return next(c for c in self.choices if float(c) == number) if self.levels else self.choices[int(number)]
        return self.distribution.to_external_repr(number)


def lies_within(unit: Array) -> Mask:
    """Return which coordinates lie in [0, 1], up to rounding."""
    return (unit >= -_ROUNDING) & (unit <= 1.0 + _ROUNDING)


def nearest_value(distribution: BaseDistribution, internal: float) -> Any:
    """Return the value of a distribution nearest to a number in Optuna's internal representation."""
    knob = Knob("", distribution, None)
    if knob.choices:
        return distribution.to_external_repr(internal)
    unit = np.clip(knob.encode(np.array([internal])), 0.0, 1.0)
    return knob.value(float(knob.decode(unit)[0]))


def make_knob(name: str, distribution: BaseDistribution, role: str | None) -> Knob:
    """Return the knob of one parameter.

    Raises:
        ValueError: A choice is not a number but the formula needs one, or values lie outside the role's domain.
    """
    if isinstance(distribution, CategoricalDistribution):
        values = [v for c in distribution.choices if (v := _finite(c)) is not None]
        numeric = len(values) == len(distribution.choices) == len(set(values))
        if role in FACTORS and not numeric:
            raise ValueError(
                f"{name!r} has the role {role}, so its choices must be different numbers, "
                f"got {distribution.choices!r}; name it otherwise or pass knobs={{{name!r}: None}}"
            )
        knob = Knob(name, distribution, role, tuple(sorted(values)) if role is not None and numeric else ())
    else:
        knob = Knob(name, distribution, role)
    if role in FACTORS:
        _check_domain(knob)
    return knob


def _finite(choice: Any) -> float | None:
    if isinstance(choice, bool) or not isinstance(choice, int | float) or not math.isfinite(choice):
        return None
    return float(choice)


def _check_domain(knob: Knob) -> None:
    ends = knob.levels or tuple(knob._range()[:2])
    low, high = min(ends), max(ends)
    rule, holds = {
        "learning_rate": ("be >= 0 and somewhere > 0", low >= 0 and high > 0),
        "batch_size": ("be > 0", low > 0),
        "momentum": ("lie in [0, 1)", low >= 0 and high <= 1),
        "weight_decay": ("be >= 0", low >= 0),
    }[str(knob.role)]
    if not holds:
        got = f"low={exact_text(low)}, high={exact_text(high)}"
        raise ValueError(
            f"{knob.name!r} has the role {knob.role}, which must {rule}, got {got}; "
            f"change its range or pass knobs={{{knob.name!r}: None}}"
        )


def check_names(knobs: Mapping[str, str | None] | None) -> dict[str, str | None]:
    """Return parameter name -> role with the user's renames applied.

    Raises:
        ValueError: A role is unknown, or two names have one role.
    """
    renamed = dict(knobs or {})
    roles = [role for role in renamed.values() if role is not None]
    for role in roles:
        if role not in ROLES:
            raise ValueError(f"{unknown('role', role, ROLES)} (knobs maps a parameter's name to its role)")
        if roles.count(role) > 1:
            twins = [name for name, other in renamed.items() if other == role]
            raise ValueError(f"knobs names the role {role} twice; keep one of {', '.join(map(repr, twins))}")
    # a renamed role gives up its default name
    usual: dict[str, str | None] = {name: role for name, role in DEFAULT_NAMES.items() if role not in roles}
    return {**usual, **renamed}


def check_fixed(fixed: Mapping[str, float] | None) -> dict[str, float]:
    """Return the constants of the noise formula with the user's values applied.

    Raises:
        ValueError: No formula uses a name, or a value lies outside its domain.
    """
    out = {**DEFAULT_FIXED}
    for name, value in (fixed or {}).items():
        if name not in DEFAULT_FIXED:
            raise ValueError(
                f"{unknown('constant', name, DEFAULT_FIXED)} (fixed holds constants that the space does not vary)"
            )
        number = _finite(value)
        low, high = _FIXED_RANGES.get(name, (math.ulp(0.0), math.inf))
        if number is None or not low <= number < high:
            raise ValueError(f"fixed {name} must be a number in [{exact_text(low)}, {exact_text(high)}), got {value!r}")
        out[name] = number
    return out
