"""Conditional knobs: which knobs act in a configuration, given the values of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Conditions = Mapping[str, Mapping[str, tuple[Any, ...]]]
"""Knob -> {other knob: the values of it with which the knob acts}; all of them must hold."""


def in_order(names: Iterable[str], conditions: Conditions) -> list[str]:
    """Return knobs in their order, each after those that its condition names.

    Raises:
        ValueError: Conditions depend on each other in a circle.
    """
    order: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise ValueError(f"conditions must not depend on each other in a circle, got {circle}; drop one of them")
        if name not in order:
            for other in conditions.get(name, {}):
                visit(other, (*path, name))
            order.append(name)

    for name in names:
        visit(name, ())
    return order


def acts(name: str, params: Mapping[str, Any], conditions: Conditions) -> bool:
    """Whether a knob acts at these values: what it depends on acts and has one of the values asked for."""
    return all(
        other in params and params[other] in values and acts(other, params, conditions)
        for other, values in conditions.get(name, {}).items()
    )


def acting(params: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return the parameters without the knobs that do not act."""
    return {name: value for name, value in params.items() if acts(name, params, conditions)}


def enabling(name: str, conditions: Conditions) -> dict[str, Any]:
    """Return values of other knobs with which a knob acts.

    Raises:
        ValueError: There are none.
    """
    allowed: dict[str, tuple[Any, ...]] = {}
    open_ = [name]
    while open_:
        for other, values in conditions.get(open_.pop(), {}).items():
            allowed[other] = tuple(v for v in values if v in allowed.get(other, values))
            if not allowed[other]:
                raise ValueError(f"{name} can never act: its conditions leave {other} no value; drop one of them")
            open_.append(other)
    return {other: values[-1] for other, values in allowed.items()}


def narrowed(
    conditions: Conditions, knobs: Mapping[str, BaseDistribution], fixed: Mapping[str, Any]
) -> tuple[dict[str, dict[str, tuple[Any, ...]]], set[str]]:
    """Return the conditions where some knobs are fixed or have fewer choices, and the knobs that act no more."""
    left = {name: dict(condition) for name, condition in conditions.items() if name in knobs}
    dead: set[str] = set()
    changed = True
    while changed:
        changed = False
        for name, condition in left.items():
            for other, values in list(condition.items()):
                now = _possible(values, other, knobs, fixed, dead)
                if not now and name not in dead:
                    dead.add(name)
                    changed = True
                if now and other not in knobs:
                    del condition[other]
                elif now:
                    condition[other] = now
    return {name: c for name, c in left.items() if c and name not in dead}, dead


def _possible(
    values: tuple[Any, ...], other: str, knobs: Mapping[str, Any], fixed: Mapping[str, Any], dead: set[str]
) -> tuple[Any, ...]:
    if other in dead:
        return ()
    if other in knobs:
        return tuple(v for v in values if v in getattr(knobs[other], "choices", values))
    return tuple(v for v in values if other not in fixed or v == fixed[other])


def check(conditions: Conditions, knobs: Mapping[str, BaseDistribution], fixed: Iterable[str] = ()) -> None:
    """Check conditions against the knobs of a space; `fixed` are further names that they may depend on.

    Raises:
        ValueError: A condition of or on what is no knob, on a value that is no choice, on a range of numbers, in a
            circle, or one that can never hold.
    """
    from trainables.registry import unknown

    known = {*knobs, *fixed}
    for name, condition in conditions.items():
        for knob in (name, *condition):
            if knob not in known:
                raise ValueError(f"condition of {name}: {unknown('knob', knob, knobs)}")
        for other, values in condition.items():
            if other not in knobs:
                continue
            choices: tuple[Any, ...] | None = getattr(knobs[other], "choices", None)
            if choices is None:
                raise ValueError(f"condition of {name}: {other} must be a knob with values, got {knobs[other]}")
            if wrong := [v for v in values if v not in choices] or ([] if values else ["nothing"]):
                raise ValueError(
                    f"condition of {name}: {other} must be one of {', '.join(map(str, choices))}, got {wrong[0]!r}"
                )
    in_order(knobs, conditions)
    for name in conditions:
        enabling(name, conditions)
