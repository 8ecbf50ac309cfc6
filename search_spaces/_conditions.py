"""Conditional knobs: knobs that act only with certain values of other knobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Conditions = Mapping[str, Mapping[str, tuple[Any, ...]]]
"""Knob -> {other knob: values with which the knob acts}; a knob acts if all entries hold."""


def sort_by_conditions(names: Iterable[str], conditions: Conditions) -> list[str]:
    """Return the knobs in order, each after the knobs of its condition.

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
    """Return whether a knob acts at these values: the knobs of its condition act and have one of its values."""
    return all(
        other in params and params[other] in values and acts(other, params, conditions)
        for other, values in conditions.get(name, {}).items()
    )


def active_params(params: Mapping[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Return the parameters of the knobs that act."""
    return {name: value for name, value in params.items() if acts(name, params, conditions)}


def find_enabling_values(name: str, conditions: Conditions) -> dict[str, Any]:
    """Return values of other knobs with which a knob acts.

    Raises:
        ValueError: No values make it act.
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


def narrow_conditions(
    conditions: Conditions, knobs: Mapping[str, BaseDistribution], fixed: Mapping[str, Any]
) -> tuple[dict[str, dict[str, tuple[Any, ...]]], set[str]]:
    """Return the conditions after fixing knobs or removing choices, and the knobs that can no longer act."""
    narrowed = {name: dict(condition) for name, condition in conditions.items() if name in knobs}
    dead: set[str] = set()
    changed = True
    while changed:
        changed = False
        for name, condition in narrowed.items():
            for other, values in list(condition.items()):
                possible = _possible(values, other, knobs, fixed, dead)
                if not possible and name not in dead:
                    dead.add(name)
                    changed = True
                if possible and other not in knobs:
                    del condition[other]
                elif possible:
                    condition[other] = possible
    return {name: c for name, c in narrowed.items() if c and name not in dead}, dead


def _possible(
    values: tuple[Any, ...], other: str, knobs: Mapping[str, Any], fixed: Mapping[str, Any], dead: set[str]
) -> tuple[Any, ...]:
    if other in dead:
        return ()
    if other in knobs:
        return tuple(v for v in values if v in getattr(knobs[other], "choices", values))
    return tuple(v for v in values if other not in fixed or v == fixed[other])


def check(conditions: Conditions, knobs: Mapping[str, BaseDistribution], fixed: Iterable[str] = ()) -> None:
    """Check conditions against the knobs of a space; they may also depend on the names `fixed`.

    Raises:
        ValueError: A condition names an unknown knob, a value that is no choice or a range of numbers, belongs to a
            circle, or can never hold.
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
    sort_by_conditions(knobs, conditions)
    for name in conditions:
        find_enabling_values(name, conditions)
