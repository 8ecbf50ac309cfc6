"""What the sampler reads from an Optuna study and notes in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.noise_sampler.encoding import Array, Rows
from sweeper.search.noise_sampler.level_sets import KnobSpace

if TYPE_CHECKING:
    from optuna.study import Study

NOISE_TARGET_KEY = "sweeper:noise_target"
"""System attribute of a trial: noise that the proposal was aimed at (float, unit of the definition).

A proposal from a level set was aimed at that level of the refined noise (exponents as fitted, other knobs at
mid-range), which differs from its own noise by the refinement and by what was moved afterwards; any other proposal,
and an enqueued trial, was aimed at its own noise."""
SEARCH_KEY = "sweeper:search"
"""System attribute of a trial: JSON with `origin`, `optimum`, `optimum_low`, `optimum_high`, `exponents`,
`variance_share`, `trials` as the sampler believed when it proposed (see `explanation.Explanation`)."""
PARAMS_KEY = "sweeper:relative_params"
"""Prefix of the system attributes `<prefix>:<i>` that tell other processes what a running trial tries."""

UNSUCCESSFUL = (TrialState.RUNNING, TrialState.FAIL, TrialState.PRUNED)
"""States whose parameters are not proposed again although they have taught nothing."""

_TOLD = math.log(2.0)  # how feasible a trial is that only says it was
_CHUNK = 1000  # a value may hold 2,045 characters once stored, and escaping can double it


@dataclass(frozen=True)
class Observations:
    """What the completed trials with finite values say.

    Attributes:
        unit: Coordinates, shape (n, d).
        losses: One column per objective, smaller is better, shape (n, m).
        numbers: Numbers of the trials, shape (n,).
    """

    unit: Array
    losses: Array
    numbers: Rows

    def __len__(self) -> int:
        return len(self.numbers)


def read_observations(
    space: KnobSpace, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> Observations:
    """Return what the completed trials say; those with a value that is not finite say nothing."""
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
    done = [t for t in trials if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))]
    units, usable = space.units_of([t.params for t in done])
    losses = np.array([t.values for t in done], dtype=float).reshape(-1, len(signs)) * signs
    return Observations(units, losses[usable], np.array([t.number for t in done], dtype=np.intp)[usable])


def read_constraints(space: KnobSpace, trials: Sequence[FrozenTrial]) -> dict[str, tuple[Array, Array]]:
    """Return constraint -> (coordinates, shape (n, d); values, shape (n,), feasible up to 0) of the finished trials.

    A trial without a value of a constraint that others have counts as feasible where it is complete: a device that
    ran out of memory says so, one that did not says nothing.
    """
    finished = [t for t in trials if t.state.is_finished()]
    stated = [t.constraints for t in finished]
    out: dict[str, tuple[Array, Array]] = {}
    for key in sorted({k for own in stated for k in own}):
        silent = [-_TOLD if t.state == TrialState.COMPLETE else math.nan for t in finished]
        values = np.array([own.get(key, s) for own, s in zip(stated, silent, strict=True)])
        units, usable = space.units_of([_known_params(space, t) for t in finished])
        known = ~np.isnan(values[usable])
        out[key] = units[known], values[usable][known]
    return out


def read_tried(space: KnobSpace, trials: Sequence[FrozenTrial], states: Sequence[TrialState] = UNSUCCESSFUL) -> Array:
    """Return the coordinates, shape (n, d), of the trials in these states, as far as their parameters are known."""
    return space.units_of([_known_params(space, t) for t in trials if t.state in states])[0]


def _known_params(space: KnobSpace, trial: FrozenTrial) -> dict[str, Any]:
    # a running trial shows its parameters only once suggested; until then they stand in the attributes
    if all(k.name in trial.params for k in space.knobs):
        return trial.params
    internal = read_proposal(trial)
    try:
        shared = {k.name: k.distribution.to_external_repr(internal[k.name]) for k in space.knobs if k.name in internal}
    except (ValueError, TypeError, IndexError):  # another process has another space
        return trial.params
    return {**shared, **trial.params}


def read_proposal(trial: FrozenTrial) -> dict[str, float]:
    """Return the proposal that `write_proposal` stored, in Optuna's internal representation; empty without one."""
    chunks = {k: v for k, v in trial.system_attrs.items() if k.startswith(f"{PARAMS_KEY}:")}
    text = "".join(chunks.get(f"{PARAMS_KEY}:{i}", "") for i in range(len(chunks)))
    try:
        found = json.loads(text)
    except ValueError:  # another process is still writing
        return {}
    return found if isinstance(found, dict) else {}


def point_keys(units: Array) -> list[tuple[float, ...]]:
    """Return for each point what makes it the same as another: its coordinates to 10 decimals."""
    return [tuple(row) for row in np.round(units, 10).tolist()]


def write_proposal(
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
