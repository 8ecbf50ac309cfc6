"""Fixed knobs: values that the user cannot change, checked before the fit, and the space that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from sweeper.config.space import corners
from sweeper.errors import SpecError
from sweeper.formatting import number
from trainables.training.optimizers import family

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FIXABLE = ("batch_size", "momentum", "learning_rate", "weight_decay")
_REACH = 30.0
"""Largest factor between a fixed value and the nearest viable trial."""
_RULES = {
    "batch_size": ("be a whole number >= 1", lambda v: v >= 1 and v == int(v)),
    "momentum": ("lie in [0, 1)", lambda v: 0 <= v < 1),
    "learning_rate": ("be > 0", lambda v: v > 0),
    "weight_decay": ("be >= 0", lambda v: v >= 0),
}


def check_fixed(fixed: Mapping[str, float], rows: Sequence[Mapping[str, Any]], limit: float | None) -> None:
    """Check fixed knobs against their rules, the training set, the tried range and the limit of stability.

    Args:
        fixed: Knob of `FIXABLE` -> value.
        rows: Trials, with `examples`, `outcome` and `momentum`.
        limit: Step size η/(1−μ) from which most trials failed; None without such failures.

    Raises:
        SpecError: A value breaks its rule, no batch of this size exists, it lies too far from all viable trials, or no
            step with these values is stable.
    """
    for name, value in fixed.items():
        rule, holds = _RULES[name]
        if not (math.isfinite(value) and holds(value)):
            raise SpecError(f"{name} must {rule}, got {value!r}")
    examples = min((r["examples"] for r in rows if r["examples"]), default=None)
    if examples is not None and fixed.get("batch_size", 0) > examples:
        raise SpecError(
            f"batch_size must be at most {examples}, the number of training examples, got {fixed['batch_size']}"
        )
    _check_reach(fixed, rows)
    if limit is None or "learning_rate" not in fixed:
        return
    momenta = [r["momentum"] for r in rows if r["outcome"] == "ok" and r["momentum"] is not None]
    momentum = fixed.get("momentum", min(momenta, default=0.0))
    step = fixed["learning_rate"] / (1.0 - momentum)
    if step >= limit:
        raise SpecError(
            f"learning_rate {fixed['learning_rate']:g} with momentum {momentum:g} gives η/(1−μ) = {number(step)}, and "
            f"most trials at {number(limit)} or above failed; give a smaller learning_rate"
            f"{' or momentum' if momentum > 0 else ''}"
        )


def _check_reach(fixed: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse values so far from all viable trials that a prediction there would be arbitrary."""
    for name in ("learning_rate", "momentum"):
        tried = [r[name] for r in rows if r["outcome"] == "ok" and r[name] is not None]
        if name not in fixed or not tried:
            continue
        low, high, value = min(tried), max(tried), fixed[name]
        # what counts of a momentum is 1 - momentum, which acts like an inverse learning rate
        ends = (low, high, value) if name == "learning_rate" else (1.0 - high, 1.0 - low, 1.0 - value)
        if ends[0] > 0 and not ends[0] / _REACH <= ends[2] <= ends[1] * _REACH:
            raise SpecError(
                f"{name} must lie within a factor {_REACH:g} of the viable trials ({number(low)} to {number(high)}), "
                f"got {value:.10g}; give a nearer value, or run trials there"
            )


def add_fixed(space: Space, fixed: Sequence[Mapping[str, float]]) -> Space:
    """Return the space with a range for each fixed knob that lacks one with its values.

    A range of numbers stays, even if a value lies outside; the surrogate then extrapolates. Choices become the range
    that spans them and the values. A field that no trial varied becomes a range from its value to the new ones.

    Args:
        space: The space.
        fixed: Mappings of a knob of `FIXABLE` to a value.

    Raises:
        SpecError: The optimizer has no such knob, or another knob acts by its choices only.
    """
    changed: dict[str, BaseDistribution] = {}
    for name in dict.fromkeys(name for values in fixed for name in values):
        values = [v[name] for v in fixed if name in v]
        distribution: Any = space.knobs.get(name)
        if distribution is None:
            before = _constant(space, name, values)
            if any(v != before for v in values):
                changed[name] = _range(name, (before, *values))
        elif hasattr(distribution, "choices"):
            if new := [v for v in values if v not in distribution.choices]:
                if any(name in needs for needs in space.conditions.values()):
                    raise SpecError(
                        f"{name} must be one of {', '.join(map(str, distribution.choices))}, got {new[0]!r}"
                    )
                changed[name] = _range(name, (*distribution.choices, *values))
        elif distribution.log and not min(values) > 0:
            got = min(values)
            raise SpecError(f"{name} must be > 0, because the sweep searched it on a log scale, got {got!r}")
    return space.override(changed, {}) if changed else space


def _constant(space: Space, name: str, values: Sequence[float]) -> float:
    trial = next(corners(space))
    if name == "momentum" and any(values) and family(trial.optimizer) in ("adam", "adamw"):
        raise SpecError(f"momentum has no effect with optimizer {trial.optimizer!r}; leave it out")
    return getattr(trial, name)


def _range(name: str, values: Sequence[float]) -> BaseDistribution:
    from optuna.distributions import FloatDistribution, IntDistribution

    low, high = min(values), max(values)
    if name == "batch_size":
        return IntDistribution(int(low), int(high), log=True)
    return FloatDistribution(low, high, log=name != "momentum" and low > 0)
