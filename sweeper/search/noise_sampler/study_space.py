"""The search space of a study whose objective changes a range, adds a knob or removes one on its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from sweeper.formatting import exact_text

_RECENT = 3  # a knob belongs to the space when each of the last complete trials has it
Distributions = Mapping[str, BaseDistribution]


def infer_space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """Return the knobs that the latest complete trials share, each with its latest distribution.

    A range that changed in the middle of a study keeps its knob, unlike in Optuna's intersection of distributions.
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
    """Return the knobs that some complete trials lack, with the value that these trials had where it is known.

    Args:
        space: The search space.
        trials: Trials of a study in any state.
        conditional: Knobs that may be missing because they do not act.
        known: Knob -> value that the user states for trials without it.
    """
    complete = _complete(trials)
    return {
        name: known.get(name)
        for name in space
        if name not in conditional and any(name not in t.params for t in complete)
    }


def describe_changes(space: Distributions, trials: Sequence[FrozenTrial], missing: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each way in which the complete trials differ from the search space."""
    complete = _complete(trials)
    changed = [n for n in space if any(n in t.distributions and t.distributions[n] != space[n] for t in complete)]
    others = sorted({n for t in complete for n in t.params} - {*infer_space(complete)} - {*space})
    return [
        *(
            f"the range of {name!r} changed: proposals lie in the new range, and trials outside it still teach"
            for name in changed
        ),
        *(
            f"some finished trials have no {name!r}: they count at {_place(value)}; state what they had by `fixed`, "
            "or when it acts by `conditions`"
            for name, value in missing.items()
        ),
        *(
            f"not all of the last {_RECENT} finished trials have {name!r}: it is not modelled, and is drawn at random "
            "if the objective asks for it; state when it acts by `conditions`"
            for name in others
        ),
    ]


def _place(value: float | None) -> str:
    return "the middle of its range" if value is None else f"{exact_text(value)}"


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state == TrialState.COMPLETE]
