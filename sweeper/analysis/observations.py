"""Observations: translation of stored rows to constraints, values and Optuna trials, for samplers and posteriors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from search_spaces._conditions import sort_by_conditions
from sweeper.config.spec import SweepSpec
from sweeper.search.objectives import COLLAPSE, DEFAULT_CLASSES, Objective, Observation
from sweeper.search.samplers import Sampler
from trainables.result import NEVER_WINS, Outcome

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Row = Mapping[str, Any]

MEMORY, STEP_TIME = "memory", "step_time"
UNKNOWN = math.log(2.0)
"""Size of a constraint without a measured value: violated or satisfied by a factor of 2."""


def _measures(spec: SweepSpec) -> dict[str, tuple[str, float | None]]:
    return {MEMORY: ("peak_memory_bytes", spec.max_memory), STEP_TIME: ("step_seconds", spec.max_step_time)}


def measure_constraints(rows: Iterable[Row], spec: SweepSpec) -> dict[str, float]:
    """Return a configuration's constraints, ln(measured/limit) of its worst repeat; satisfied if <= 0.

    A trial that ran out of memory violates `memory`, whatever it measured and even without a limit.
    """
    rows = list(rows)
    values: dict[str, float] = {}
    for name, (column, limit) in _measures(spec).items():
        if limit is not None:
            measured = [v for r in rows if (v := r.get(column))]
            values[name] = math.log(max(measured) / limit) if measured else -UNKNOWN
    if any(r["outcome"] == Outcome.OUT_OF_MEMORY for r in rows):
        values[MEMORY] = max(values.get(MEMORY, UNKNOWN), UNKNOWN)
    return values


def is_feasible(row: Row, spec: SweepSpec) -> bool:
    """Return whether a trial keeps the sweep's limits as far as they were measured; others never win."""
    return all(value <= 0 for value in measure_constraints([row], spec).values())


KEPT = 0.5
"""Least share of its children's accuracy that a merge of `tasks` keeps unless it has collapsed."""


def has_collapsed(row: Row, column: str = "gain_mean_loss_val") -> bool:
    """Return whether a merge overflowed, or lost more than `COLLAPSE` times ln C against its parents.

    A merge of `tasks` always loses; it collapses where the chosen one keeps less than half of its children's accuracy.

    Args:
        row: Row of the trials table.
        column: Column of the gain over the mean parent.
    """
    gain = row.get(column)
    if row["outcome"] != Outcome.OK:
        return False
    if row.get("pair_kind") == "tasks":
        kept = row.get("chosen_normalised_accuracy_val")
        return kept is None or not kept >= KEPT
    return gain is None or not math.isfinite(gain) or gain < -COLLAPSE * math.log(row.get("classes") or DEFAULT_CLASSES)


def find_ineligible(rows: Iterable[Row], feasible: Callable[[Row], bool] = lambda _: True) -> set[str]:
    """Return the configurations that may not win: one repeat has an outcome of `NEVER_WINS` or breaks a limit."""
    return {row["config"] for row in rows if row["outcome"] in NEVER_WINS or not feasible(row)}


class Observer:
    """Translates the rows of a configuration to an observation for a sampler.

    Args:
        spec: The sweep, for its limits.
        sampler: The sampler that observes.
        objectives: The objectives, the first of them ranks.
    """

    def __init__(self, spec: SweepSpec, sampler: Sampler, objectives: Sequence[Objective]) -> None:
        self.spec, self.sampler, self.objectives = spec, sampler, objectives
        self._worst: dict[str, float] = {}  # column of an uncapped objective -> its worst value so far

    def observe(self, rows: Iterable[Row]) -> Observation | None:
        """Return the observation of a configuration; None if all its trials failed."""
        rows = [r for r in rows if r["outcome"] != Outcome.FAILED]
        if not rows:
            return None
        observation = self._observe(rows)
        return replace(observation, proxy=any(r.get("proxy") for r in rows))

    def _observe(self, rows: Sequence[Row]) -> Observation:
        limits = measure_constraints(rows, self.spec)
        outcomes = {r["outcome"] for r in rows}
        broken = not all(r["outcome"] == Outcome.OK and is_feasible(r, self.spec) for r in rows)
        if Outcome.OUT_OF_MEMORY in outcomes:
            if self.sampler.infeasible:
                return Observation(None, limits, broken=True)
            if self.spec.max_memory is None:
                # GPSampler needs the same constraints in all trials, so this trial just gets a bad value
                del limits[MEMORY]
        if Outcome.PRUNED in outcomes:
            return Observation(None, limits, pruned=True, broken=True)
        violated = not self.sampler.constrained and any(v > 0 for v in limits.values())
        values = tuple(math.fsum(self._value(goal, r, violated) for r in rows) / len(rows) for goal in self.objectives)
        collapsed = any(has_collapsed(r) for r in rows)
        return Observation(values, limits if self.sampler.constrained else {}, broken=broken, collapsed=collapsed)

    def _value(self, goal: Objective, row: Row, violated: bool) -> float:
        if goal.capped:
            return goal.tell({**row, "outcome": "over its limits"} if violated else row)
        value = goal.tell(row)
        worst = self._worst.get(goal.column, value)
        worst = worst if goal.is_better(value, worst) else value
        if violated or row["outcome"] != Outcome.OK:
            return worst
        self._worst[goal.column] = worst
        return value


def make_trial(
    space: Space, params: Mapping[str, Any], observation: Observation | None, proxy: bool = False
) -> FrozenTrial:
    """Return the Optuna trial of a configuration.

    Args:
        space: The search space.
        params: Value of every knob that acts.
        observation: Its observation; None for a running trial.
        proxy: Whether a running trial has a share of the training budget; an observation says so itself.
    """
    from optuna.trial import TrialState, create_trial

    from sweeper.search.noise_sampler.study_attrs import PROXY_KEY

    knobs = {name: space.knobs[name] for name in sort_by_conditions(space.knobs, space.conditions) if name in params}
    return create_trial(
        state=TrialState.RUNNING if observation is None else trial_state(observation),
        params={name: params[name] for name in knobs},
        distributions=knobs,
        values=None if observation is None else trial_values(observation),
        constraints=None if observation is None else dict(observation.constraints),
        system_attrs={PROXY_KEY: True} if proxy or (observation is not None and observation.proxy) else None,
    )


def trial_state(observation: Observation) -> Any:
    """Return the state of the Optuna trial with this observation."""
    from optuna.trial import TrialState

    if observation.pruned:
        return TrialState.PRUNED
    return TrialState.FAIL if observation.values is None else TrialState.COMPLETE


def trial_values(observation: Observation) -> list[float] | None:
    """Return the values of the Optuna trial with this observation; None unless it is complete."""
    return None if observation.values is None or observation.pruned else list(observation.values)
