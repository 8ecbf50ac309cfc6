"""What the sampler reads from an Optuna study and notes in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .knobs import Array
from .noise_axis import KnobSpace

if TYPE_CHECKING:
    from optuna.study import Study

NOISE_TARGET_KEY = "sweeper:noise_target"
"""System attribute of a trial: noise that the proposal was aimed at (float, unit of the definition).

A proposal from a level set was aimed at that level of the refined noise (exponents as fitted, other knobs at
mid-range), which differs from its own noise by the refinement and by what was moved afterwards; any other proposal,
and an enqueued trial, was aimed at its own noise."""
SEARCH_KEY = "sweeper:search"
"""System attribute of a trial: JSON with `origin`, `optimum`, `optimum_low`, `optimum_high`, `exponents`,
`variance_share`, `trials` as the sampler believed when it proposed (see `sweeper.explanation.Explanation`)."""
PARAMS_KEY = "sweeper:relative_params"
"""Prefix of the system attributes `<prefix>:<i>` that tell other processes what a running trial tries."""

UNSUCCESSFUL = (TrialState.RUNNING, TrialState.FAIL, TrialState.PRUNED)
"""States whose parameters are not proposed again although they have taught nothing."""

_CHUNK = 1000  # a value may hold 2,045 characters once stored, and escaping can double it


def observed(space: KnobSpace, trials: Sequence[FrozenTrial], direction: StudyDirection) -> tuple[Array, Array]:
    """Return coordinates, shape (n, d), and losses, shape (n,), of the completed trials with a finite value."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    done = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None and math.isfinite(t.value)]
    units, usable = space.units_of([t.params for t in done])
    return units, sign * np.array([t.value for t in done], dtype=float)[usable]


def tried(space: KnobSpace, trials: Sequence[FrozenTrial], states: Sequence[TrialState] = UNSUCCESSFUL) -> Array:
    """Return the coordinates, shape (n, d), of the trials in these states, as far as their parameters are known."""
    return space.units_of([_known_params(space, t) for t in trials if t.state in states])[0]


def _known_params(space: KnobSpace, trial: FrozenTrial) -> dict[str, Any]:
    # a running trial shows its parameters only once suggested; until then they stand in the attributes
    if all(k.name in trial.params for k in space.knobs):
        return trial.params
    chunks = {k: v for k, v in trial.system_attrs.items() if k.startswith(f"{PARAMS_KEY}:")}
    text = "".join(chunks.get(f"{PARAMS_KEY}:{i}", "") for i in range(len(chunks)))
    try:
        internal = json.loads(text)
        shared = {k.name: k.distribution.to_external_repr(internal[k.name]) for k in space.knobs if k.name in internal}
    except (ValueError, TypeError, IndexError):  # another process is still writing, or has another space
        return trial.params
    return {**shared, **trial.params}


def keys(units: Array) -> list[tuple[float, ...]]:
    """Return for each point what makes it the same as another: its coordinates to 10 decimals."""
    return [tuple(row) for row in np.round(units, 10).tolist()]


def note(
    study: Study,
    trial: FrozenTrial,
    space: KnobSpace,
    params: Mapping[str, Any],
    thought: Mapping[str, Any],
    target: float | None = None,
) -> None:
    """Write a proposal into the trial's system attributes: its parameters, the noise aimed at, the thought behind it.

    Args:
        study: Study that asks.
        trial: Its trial.
        space: The search space.
        params: The proposal.
        thought: What stands under `SEARCH_KEY`.
        target: Noise of the level that the proposal was aimed at; None where it was aimed at none.
    """
    enqueued = trial.system_attrs.get("fixed_params", {})
    tried = {**params, **enqueued}
    unit, usable = space.units_of([tried])
    if not usable[0]:  # enqueued with a value that the space cannot hold
        tried, (unit, _) = dict(params), space.units_of([params])
    internal = {k.name: k.distribution.to_internal_repr(tried[k.name]) for k in space.knobs}
    text = json.dumps(internal)
    notes: dict[str, Any] = {f"{PARAMS_KEY}:{i // _CHUNK}": text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK)}
    if space.pivot is not None:
        own = math.exp(space.points(unit).log_noise[0])
        notes[NOISE_TARGET_KEY] = own if target is None or enqueued else target
    notes[SEARCH_KEY] = json.dumps(dict(thought))
    for name, value in notes.items():
        study._storage.set_trial_system_attr(trial._trial_id, name, value)
