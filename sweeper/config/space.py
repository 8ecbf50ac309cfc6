"""Values of a search space that trials and checks need: constants of the noise, corners, members."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from search_spaces import Space
from search_spaces._conditions import enabling
from trainables.noise import KNOBS
from trainables.spec import PairSpec


def noise_constants(space: Space, more: Mapping[str, float]) -> dict[str, float]:
    """Return what stands in the noise formulas beside the knobs: the space's fixed values, and `more`.

    Of a knob that acts under a condition only, it is the value elsewhere.
    """
    some = space.build(next(corners(space)))
    names = [k for k in (*KNOBS, "beta1") if k not in space.knobs or k in space.conditions]
    return {**{k: getattr(PairSpec if k in space.conditions else some, k) for k in names}, **more}


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield parameters that touch every bound and every choice of every knob, one knob off the first corner each.

    What breaks a rule at a bound shows before the first trial, not in the middle of the sweep.
    """

    def ends(distribution: Any) -> list[Any]:
        return list(getattr(distribution, "choices", None) or (distribution.low, distribution.high))

    # the rest at its largest: the largest batch is the one that may not fit
    first = {name: ends(d)[-1] for name, d in space.knobs.items()}
    yield first
    for name, distribution in space.knobs.items():
        here = {**first, **enabling(name, space.conditions)}
        for value in ends(distribution) if here != first else ends(distribution)[:-1]:
            yield {**here, name: value}


def members_of(space: Space) -> int:
    """Return the children of a trial of a space, the most where they differ."""
    return max(space.build(params).members for params in corners(space))
