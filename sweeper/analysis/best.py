"""Which configurations win: by the mean over their repeats, and by the posterior mean that is no lucky draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sweeper.analysis.constraints import feasible
from sweeper.analysis.posterior import Posterior
from sweeper.config.spec import SweepSpec
from sweeper.search.objectives import OBJECTIVES, resolve_objective
from trainables.result import NEVER_WINS

_COSTS = ("peak_memory_bytes", "step_seconds")


def over_limits(trials: pa.Table, spec: SweepSpec) -> frozenset[str]:
    """Return the configurations of which a trial broke a limit of the sweep, on memory or step time; none may win."""
    if spec.max_memory is None and spec.max_step_time is None:
        return frozenset()
    rows = trials.select(["config", "outcome", *_COSTS]).to_pylist()
    return frozenset(r["config"] for r in rows if not feasible(r, spec))


def best_trials(
    trials: pa.Table, objective: str, n: int = 1, lost: Collection[str] = frozenset()
) -> list[dict[str, Any]]:
    """Return the best configurations, best first, by the mean of the objective over their repeats.

    The objective is a validation number, so the test scores of the winner are not selected on, unless only test was
    measured (`Objective.split_in`). A configuration of
    which a repeat diverged, was not viable or ran out of memory does not win; one that `failed` is ignored.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`.
        n: At most this many.
        lost: Configurations that may not win either, see `over_limits`.

    Returns:
        For each configuration the row of its best repeat, with `config_mean` (mean of the objective's column) and
        `config_repeats` (how many repeats it is the mean of).

    Raises:
        UnknownName: No such objective.
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n!r}")
    return _taken(trials, _ranked(trials, objective, lost)[:n])


@dataclass(frozen=True)
class _Mean:
    config: str
    value: float  # mean of the objective over the repeats
    repeats: int
    row: int  # of the best repeat


def _ranked(trials: pa.Table, objective: str, lost: Collection[str]) -> list[_Mean]:
    goal = resolve_objective(objective, trials)
    light = trials.select(["config", "outcome", goal.column]).to_pylist()
    bad = {row["config"] for row in light if row["outcome"] in NEVER_WINS}.union(lost)
    repeats: dict[str, list[tuple[float, int]]] = {}
    for i, row in enumerate(light):
        if row["outcome"] == "ok" and row["config"] not in bad and _finite(row[goal.column]):
            repeats.setdefault(row["config"], []).append((row[goal.column], i))
    pick = max if goal.maximize else min
    found = [
        _Mean(config, math.fsum(v for v, _ in own) / len(own), len(own), pick(own, key=lambda pair: pair[0])[1])
        for config, own in repeats.items()
    ]
    return sorted(found, key=lambda mean: mean.value, reverse=goal.maximize)


def _taken(trials: pa.Table, means: Sequence[_Mean]) -> list[dict[str, Any]]:
    rows = trials.take([mean.row for mean in means]).to_pylist() if means else []
    return [
        {**row, "config_mean": mean.value, "config_repeats": mean.repeats}
        for row, mean in zip(rows, means, strict=True)
    ]


def winner(
    trials: pa.Table, objective: str, believed: Posterior, lost: Collection[str] = frozenset()
) -> dict[str, Any] | None:
    """Return the configuration to take home: the best by posterior mean, not the luckiest draw.

    Where the model has no favourite it is the best by observed mean.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`: the first objective of the sweep.
        believed: What the model says, see `sweeper.analysis.posterior.fit_posterior`.
        lost: Configurations that may not win, see `over_limits`.

    Returns:
        The row of its best repeat as `best_trials` yields it, with `posterior_mean` and `posterior_sd` of the
        objective's mean (None without a favourite), `undecided` (why there is none, else empty) and `luckiest`:
        `digest`, `config_mean` and `config_repeats` of the best by observed mean where that is another one, else
        None. None where nothing may win.
    """
    ranked = _ranked(trials, objective, lost)
    if not ranked:
        return None
    favourite = believed.favourite
    chosen = next((m for m in ranked if favourite and m.config == favourite.config), None)
    if favourite is None or chosen is None:
        (row,) = _taken(trials, ranked[:1])
        return {**row, "posterior_mean": None, "posterior_sd": None, "undecided": believed.undecided, "luckiest": None}
    (row,) = _taken(trials, [chosen])
    luckiest = None
    if ranked[0].config != chosen.config:
        (first,) = _taken(trials, ranked[:1])
        luckiest = {key: first[key] for key in ("digest", "config_mean", "config_repeats")}
    posterior = {"posterior_mean": favourite.mean, "posterior_sd": favourite.sd}
    return {**row, **posterior, "undecided": "", "luckiest": luckiest}


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


Row = Mapping[str, Any]


def pareto(
    rows: Iterable[Row], objectives: Sequence[str], feasible: Callable[[Row], bool] = lambda _: True
) -> list[dict[str, Any]]:
    """Return the configurations that no other one matches or beats in every objective and beats in one.

    Args:
        rows: Rows of the trials table.
        objectives: Names in `OBJECTIVES`.
        feasible: Whether a row keeps the sweep's limits, see `sweeper.analysis.constraints.feasible`.

    Returns:
        One record each, best by the first objective first: `config`, `number`, `digest` (its best repeat by the first
        objective), `repeats` and the mean over the repeats of each objective under its name.
    """
    goals = [OBJECTIVES[name] for name in objectives]
    repeats: dict[str, list[Row]] = {}
    bad: set[str] = set()
    for row in rows:
        if row["outcome"] in NEVER_WINS or not feasible(row):
            bad.add(row["config"])
        values = [row.get(goal.column) for goal in goals]
        if row["outcome"] == "ok" and all(v is not None and math.isfinite(v) for v in values):
            repeats.setdefault(row["config"], []).append(row)
    own = [trials for config, trials in repeats.items() if config not in bad]
    if not own:
        return []
    means = np.array([[math.fsum(r[g.column] for r in trials) / len(trials) for g in goals] for trials in own])
    losses = means * [-1.0 if g.maximize else 1.0 for g in goals]
    front: list[int] = []
    for i in np.lexsort(losses.T[::-1]):  # what beats another one comes before it
        known = losses[front]
        if not ((known <= losses[i]).all(axis=1) & (known < losses[i]).any(axis=1)).any():
            front.append(int(i))
    return [_record(own[i], means[i], objectives) for i in front]


def _record(trials: Sequence[Row], mean: Any, objectives: Sequence[str]) -> dict[str, Any]:
    first = OBJECTIVES[objectives[0]]
    best = min(trials, key=lambda r: -r[first.column] if first.maximize else r[first.column])
    about = {"config": best["config"], "number": best.get("number"), "digest": best["digest"], "repeats": len(trials)}
    return {**about, **{name: float(value) for name, value in zip(objectives, mean, strict=True)}}
