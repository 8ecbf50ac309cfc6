"""Attributes of an Optuna study that the sampler reads and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.noise_sampler.encoding import Array, Mask, Rows
from sweeper.search.noise_sampler.level_sets import KnobSpace, Points

if TYPE_CHECKING:
    from optuna.study import Study

NOISE_TARGET_KEY = "sweeper:noise_target"
"""System attribute of a trial: target noise of the proposal (float, unit of the definition).

The target of a proposal from a level set is that level of the refined noise, with fitted exponents and the other knobs
at mid-range. It differs from the proposal's own noise by the refinement and by later moves. The target of any other
proposal and of an enqueued trial is its own noise."""
SEARCH_KEY = "sweeper:search"
"""System attribute of a trial: JSON with `origin`, `optimum`, `optimum_low`, `optimum_high`, `exponents`,
`variance_share`, `trials` of the model at the time of the proposal (see `explanation.Explanation`)."""
PARAMS_KEY = "sweeper:relative_params"
"""Prefix of the system attributes `<prefix>:<i>` that hold a running trial's parameters for other processes."""
PROXY_KEY = "sweeper:proxy"
"""System attribute of a trial with a share of the training budget: true."""

UNSUCCESSFUL = (TrialState.RUNNING, TrialState.FAIL, TrialState.PRUNED)
"""States without a usable result whose parameters are not proposed again."""

_TOLD = math.log(2.0)  # constraint value of a trial that states only its feasibility
_CHUNK = 1000  # a stored value may hold 2,045 characters, and escaping can double its length


@dataclass(frozen=True)
class Observations:
    """Observations of the completed trials with finite values.

    Attributes:
        unit: Coordinates, shape (n, d).
        losses: One column per objective, smaller is better, shape (n, m).
        numbers: Numbers of the trials, shape (n,).
        proxy: Which trials had a share of the training budget, shape (n,), bool.
    """

    unit: Array
    losses: Array
    numbers: Rows
    proxy: Mask

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Mask) -> Observations:
        """Return the observations under a mask, shape (n,)."""
        return Observations(self.unit[rows], self.losses[rows], self.numbers[rows], self.proxy[rows])

    def take_one_budget(self) -> Observations:
        """Return the observations with the full training budget, or those of the proxy if these are more."""
        return self.take(self.proxy == (2 * self.proxy.sum() > len(self)))


def read_observations(
    space: KnobSpace, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> Observations:
    """Return the observations of the completed trials, without those that have a non-finite value."""
    signs = [-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in directions]
    done = [t for t in trials if t.state == TrialState.COMPLETE and all(map(math.isfinite, t.values))]
    units, usable = space.units_of([t.params for t in done])
    losses = np.array([t.values for t in done], dtype=float).reshape(-1, len(signs)) * signs
    numbers = np.array([t.number for t in done], dtype=np.intp)
    proxy = np.array([is_proxy(t) for t in done], dtype=bool)
    return Observations(units, losses[usable], numbers[usable], proxy[usable])


def read_constraints(space: KnobSpace, trials: Sequence[FrozenTrial]) -> dict[str, tuple[Array, Array]]:
    """Return constraint -> (coordinates, shape (n, d); values, shape (n,), feasible up to 0) of the finished trials.

    A complete trial without a value for a constraint of other trials counts as feasible: only a device that ran out of
    memory reports it.
    """
    finished = [t for t in trials if t.state.is_finished()]
    stated = [t.constraints for t in finished]
    out: dict[str, tuple[Array, Array]] = {}
    for key in sorted({k for constraints in stated for k in constraints}):
        silent = [-_TOLD if t.state == TrialState.COMPLETE else math.nan for t in finished]
        values = np.array([constraints.get(key, s) for constraints, s in zip(stated, silent, strict=True)])
        units, usable = space.units_of([_known_params(space, t) for t in finished])
        known = ~np.isnan(values[usable])
        out[key] = units[known], values[usable][known]
    return out


def read_tried(space: KnobSpace, trials: Sequence[FrozenTrial], states: Sequence[TrialState] = UNSUCCESSFUL) -> Array:
    """Return the coordinates, shape (n, d), of the trials in these states with known parameters."""
    return space.units_of([_known_params(space, t) for t in trials if t.state in states])[0]


def read_running(space: KnobSpace, trials: Sequence[FrozenTrial]) -> Points:
    """Return the points of the running trials with known parameters, with the marks of a proxy's trials."""
    running = [t for t in trials if t.state == TrialState.RUNNING]
    units, usable = space.units_of([_known_params(space, t) for t in running])
    return space.points(units).with_proxy(np.array([is_proxy(t) for t in running], dtype=bool)[usable])


def is_proxy(trial: FrozenTrial) -> bool:
    """Return whether a trial has a share of the training budget."""
    return bool(trial.system_attrs.get(PROXY_KEY))


def _known_params(space: KnobSpace, trial: FrozenTrial) -> dict[str, Any]:
    # a running trial has its parameters only after the suggestion; until then its attributes hold them
    if all(k.name in trial.params for k in space.knobs):
        return trial.params
    internal = read_proposal(trial)
    try:
        shared = {k.name: k.distribution.to_external_repr(internal[k.name]) for k in space.knobs if k.name in internal}
    except (ValueError, TypeError, IndexError):  # a process with another space wrote it
        return trial.params
    return {**shared, **trial.params}


def read_proposal(trial: FrozenTrial) -> dict[str, float]:
    """Return the proposal that `write_proposal` stored, in Optuna's internal representation; empty without one."""
    chunks = {k: v for k, v in trial.system_attrs.items() if k.startswith(f"{PARAMS_KEY}:")}
    text = "".join(chunks.get(f"{PARAMS_KEY}:{i}", "") for i in range(len(chunks)))
    try:
        internal = json.loads(text)
    except ValueError:  # another process is still writing
        return {}
    return internal if isinstance(internal, dict) else {}


def point_keys(units: Array) -> list[tuple[float, ...]]:
    """Return one key per point for comparisons: its coordinates to 10 decimals."""
    return [tuple(row) for row in np.round(units, 10).tolist()]


def write_proposal(
    study: Study,
    trial: FrozenTrial,
    space: KnobSpace,
    params: Mapping[str, Any],
    thought: Mapping[str, Any],
    target: float | None = None,
) -> None:
    """Write a proposal into the trial's system attributes: its parameters, target noise and explanation.

    Args:
        study: Study of the trial.
        trial: Its trial.
        space: The search space.
        params: The proposal.
        thought: Record for `SEARCH_KEY`.
        target: Noise of the proposal's target level; None without one.
    """
    enqueued = trial.system_attrs.get("fixed_params", {})
    final = {**params, **enqueued}
    unit, usable = space.units_of([final])
    if not usable[0]:  # the space does not allow an enqueued value
        final, (unit, _) = dict(params), space.units_of([params])
    internal = {k.name: k.distribution.to_internal_repr(final[k.name]) for k in space.knobs}
    text = json.dumps(internal)
    notes: dict[str, Any] = {f"{PARAMS_KEY}:{i // _CHUNK}": text[i : i + _CHUNK] for i in range(0, len(text), _CHUNK)}
    if space.pivot is not None:
        proposed = math.exp(space.points(unit).log_noise[0])
        notes[NOISE_TARGET_KEY] = proposed if target is None or enqueued else target
    notes[SEARCH_KEY] = json.dumps(dict(thought))
    for name, value in notes.items():
        study._storage.set_trial_system_attr(trial._trial_id, name, value)
