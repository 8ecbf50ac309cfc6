"""The Pareto set of a sweep with several objectives: configurations that none other beats in all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sweeper.search.objectives import OBJECTIVES
from trainables.result import NEVER_WINS

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
