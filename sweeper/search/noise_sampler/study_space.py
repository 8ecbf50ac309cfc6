"""Search space of a study whose objective changes a range, adds a knob or removes one during the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from sweeper.formatting import exact_text

_RECENT = 3  # a knob belongs to the space if all of the last complete trials have it
Distributions = Mapping[str, BaseDistribution]


def infer_space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return knob -> latest distribution, for the knobs that the latest complete trials share.

    Unlike Optuna's intersection of distributions, this keeps a knob whose range changed during the study.
    """
    recent = _complete(trials)[-_RECENT:]
    if not recent:
        return {}
    shared = [name for name in recent[-1].distributions if all(name in t.distributions for t in recent)]
    return {name: recent[-1].distributions[name] for name in sorted(shared)}


def missing_values(
    space: Distributions,
    trials: Sequence[FrozenTrial],
    conditional: Sequence[str],
    known: Mapping[str, float],
) -> dict[str, float | None]:
    """Return knob that some complete trials lack -> value of these trials, or None if unknown.

    Args:
        space: The search space.
        trials: Trials of a study in any state.
        conditional: Knobs that trials may lack because they are inactive.
        known: Knob -> value that the user states for trials without the knob.
    """
    complete = _complete(trials)
    return {
        name: known.get(name)
        for name in space
        if name not in conditional and any(name not in t.params for t in complete)
    }


def describe_changes(space: Distributions, trials: Sequence[FrozenTrial], missing: Mapping[str, Any]) -> list[str]:
    """Return sentences on the differences between the complete trials and the search space."""
    complete = _complete(trials)
    changed = [n for n in space if any(n in t.distributions and t.distributions[n] != space[n] for t in complete)]
    others = sorted({n for t in complete for n in t.params} - {*infer_space(complete)} - {*space})
    return [
        *(
            f"the range of {name!r} changed: proposals lie in the new range, and trials outside it still count"
            for name in changed
        ),
        *(
            f"some finished trials lack {name!r} and count at {_place(value)}; set their value with `fixed`, or name "
            "the conditions of the knob with `conditions`"
            for name, value in missing.items()
        ),
        *(
            f"some of the last {_RECENT} finished trials lack {name!r}: the model ignores it, and suggestions for it "
            "are random; name the conditions of the knob with `conditions`"
            for name in others
        ),
    ]


def _place(value: float | None) -> str:
    return "the middle of its range" if value is None else f"{exact_text(value)}"


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state == TrialState.COMPLETE]
