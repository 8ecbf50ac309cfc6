"""The search space of a sweep, its corners, and constants of the noise formulas in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from search_spaces import Space, load
from search_spaces._conditions import find_enabling_values
from search_spaces._space import SpaceError
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from trainables.noise import KNOBS
from trainables.registry import UnknownName
from trainables.spec import BaseSpec, PairSpec

_SET_BY_SWEEP = {"seed", "repeat", "stack", "graphs"}


def noise_constants(space: Space, trial: PairSpec, examples: float | None = None) -> dict[str, float]:
    """Return the values in noise formulas that are the same in all trials of a space.

    A knob with a condition counts with its value outside of the condition. Where beta1 follows a varying batch size, it
    is no constant.

    Args:
        space: The space.
        trial: Any trial of the space.
        examples: Size of the training set; None leaves it out.
    """
    names = [k for k in (*KNOBS, "beta1") if k not in space.knobs or k in space.conditions]
    if trial.betas_batch_size and "batch_size" in space.knobs and "beta1" in names:
        names.remove("beta1")
    constants = {k: getattr(PairSpec if k in space.conditions else trial, k) for k in names}
    return constants if examples is None else {**constants, "examples": examples}


def corner_params(space: Space) -> Iterator[dict[str, Any]]:
    """Yield parameters that touch every bound and every choice of every knob.

    The first corner has the last value of every knob; each further one differs from it in one knob. A value that breaks
    a rule shows there before the first trial, not in the middle of the sweep.
    """

    def ends(distribution: Any) -> list[Any]:
        return list(getattr(distribution, "choices", None) or (distribution.low, distribution.high))

    # the other knobs at their largest: the largest batch is the one that may not fit
    first = {name: ends(d)[-1] for name, d in space.knobs.items()}
    yield first
    for name, distribution in space.knobs.items():
        enabled = {**first, **find_enabling_values(name, space.conditions)}
        for value in ends(distribution) if enabled != first else ends(distribution)[:-1]:
            yield {**enabled, name: value}


def middle_params(space: Space) -> dict[str, Any]:
    """Return the parameters at the middle of every knob's range or choices, without those that do not act."""

    def middle(knob: Any) -> Any:
        if hasattr(knob, "choices"):
            return knob.choices[len(knob.choices) // 2]
        value = math.sqrt(knob.low * knob.high) if knob.log else (knob.low + knob.high) / 2
        return min(max(knob.low, round(value)), knob.high) if isinstance(knob.low, int) else value

    return space.active_params({name: middle(knob) for name, knob in space.knobs.items()})


def corners(space: Space) -> Iterator[PairSpec]:
    """Yield the trials of `corner_params`.

    Raises:
        ValueError: A corner breaks a rule of `PairSpec`.
    """
    return map(space.build, corner_params(space))


def load_space(spec: SweepSpec, find: Callable[[str], Space] = load) -> Space:
    """Return the search space of a sweep, with its ranges and fixed values; see `sweeper.config.prepared.prepare`.

    Args:
        spec: The sweep.
        find: Returns the space of a name or path. The default executes a user's space file; a server passes a
            function that does not.

    Raises:
        SpecError: The space is unknown, or a field or value breaks a rule.
    """
    try:
        kinds = {f.name: str(f.type) for f in fields(PairSpec)}
        kinds |= {f"base.{f.name}": str(f.type) for f in fields(BaseSpec)}
        if taken := sorted(_SET_BY_SWEEP & (set(spec.parameters) | set(spec.fixed))):
            raise SpaceError(f"the sweep sets {taken[0]}; use the keys seed, repeats, stack and graphs")
        knobs: dict[str, Any] = {}
        for name, parameter in spec.parameters.items():
            try:
                if parameter.has_range:
                    knobs[name] = parameter.to_optuna(kinds.get(name, ""))
            except ValueError as error:
                raise SpaceError(f"parameters.{name}: {error}") from None
        space = find(spec.space)
        space = space.small() if spec.smoke else space
        space.check_needs([*spec.fixed, *spec.parameters])
        when = _conditions(spec, space, {**space.knobs, **knobs})
        space = space.override(knobs, spec.fixed, when)
    except (SpaceError, UnknownName, ValueError) as error:
        raise SpecError(str(error)) from None
    return space


def _conditions(spec: SweepSpec, space: Space, knobs: Mapping[str, Any]) -> dict[str, Mapping[str, tuple[Any, ...]]]:
    for name, parameter in spec.parameters.items():
        if not parameter.has_range and name not in space.knobs:
            raise SpaceError(f"parameters.{name}: give values, or both min and max: it is not a knob of the space")
    # a number may be text in YAML; the knob has it as a number
    return {
        name: {other: tuple(_choice(v, knobs.get(other)) for v in values) for other, values in p.when.items()}
        for name, p in spec.parameters.items()
        if p.when is not None
    }


def _choice(value: Any, distribution: Any) -> Any:
    return next((c for c in getattr(distribution, "choices", ()) if c == value or str(c) == value), value)
