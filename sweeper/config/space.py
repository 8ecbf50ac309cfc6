"""Corners of a search space, and constants of the noise formulas in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search_spaces import Space
from search_spaces._conditions import find_enabling_values
from trainables.noise import KNOBS
from trainables.spec import PairSpec


def noise_constants(space: Space, trial: PairSpec, examples: float | None = None) -> dict[str, float]:
    """Return the values in noise formulas that are the same in all trials of a space.

    A knob with a condition counts with its value outside of the condition.

    Args:
        space: The space.
        trial: Any trial of the space.
        examples: Size of the training set; None leaves it out.
    """
    names = [k for k in (*KNOBS, "beta1") if k not in space.knobs or k in space.conditions]
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


def corners(space: Space) -> Iterator[PairSpec]:
    """Yield the trials of `corner_params`.

    Raises:
        ValueError: A corner breaks a rule of `PairSpec`.
    """
    return map(space.build, corner_params(space))
