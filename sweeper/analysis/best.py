"""Rules for the best configurations: mean over repeats, posterior mean, Pareto set."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from sweeper.analysis.observations import find_ineligible, is_feasible
from sweeper.analysis.posterior import Posterior, fit_posterior
from sweeper.analysis.stages.confirmation import Confirmation, find_confirmation
from sweeper.config.spec import SweepSpec
from sweeper.search.objectives import OBJECTIVES, Objective, resolve_objective

Row = Mapping[str, Any]
Feasible = Callable[[Row], bool]
_COSTS = ("peak_memory_bytes", "step_seconds")


def find_over_limits(trials: pa.Table, spec: SweepSpec) -> frozenset[str]:
    """Return the configurations with a trial beyond a memory or step-time limit of the sweep; none may win."""
    if spec.max_memory is None and spec.max_step_time is None:
        return frozenset()
    rows = trials.select(["config", "outcome", *_COSTS]).to_pylist()
    return frozenset(r["config"] for r in rows if not is_feasible(r, spec))


@dataclass(frozen=True)
class Standing:
    """A configuration that may win: mean of the objective over its repeats, their number, digest of the best one."""

    config: str
    mean: float
    repeats: int
    digest: str


class Leaderboard:
    """Configurations by the mean of an objective over their repeats, best first; the earlier trial wins a tie.

    A configuration of `find_ineligible` does not win. A `failed` trial and one of a proxy do not count.

    Args:
        goal: The objective.
        rows: Trial rows to start with; `add` takes further ones.
        feasible: Whether a row keeps the sweep's limits.
    """

    def __init__(self, goal: Objective, rows: Iterable[Row] = (), feasible: Feasible = lambda _: True) -> None:
        self._goal, self._feasible = goal, feasible
        self._repeats: dict[str, list[tuple[float, float, float, str]]] = {}  # config -> loss, number, repeat, digest
        self._ineligible: set[str] = set()
        for row in rows:
            self._count(row)
        self._order = sorted(self._key(config) for config in self._repeats if self._has(config))

    def _count(self, row: Row) -> None:
        self._ineligible |= find_ineligible([row], self._feasible)
        if row.get("proxy"):  # its score is that of another training budget
            return
        value = row.get(self._goal.column)
        if row["outcome"] == "ok" and value is not None and math.isfinite(value):
            number, repeat = (math.inf if (v := row.get(k)) is None else v for k in ("number", "repeat"))
            loss = -value if self._goal.maximize else value
            self._repeats.setdefault(row["config"], []).append((loss, number, repeat, row["digest"]))

    def _has(self, config: str) -> bool:
        return config in self._repeats and config not in self._ineligible

    def _key(self, config: str) -> tuple[float, tuple[float, ...], str]:
        repeats = self._repeats[config]
        return math.fsum(r[0] for r in repeats) / len(repeats), min(r[1:3] for r in repeats), config

    def add(self, row: Row) -> None:
        """Count one more trial."""
        config = row["config"]
        if self._has(config):
            del self._order[bisect_left(self._order, self._key(config))]
        self._count(row)
        if self._has(config):
            insort(self._order, self._key(config))

    def first(self, count: int | None = None) -> list[Standing]:
        """Return the best configurations, at most `count` of them."""
        return [
            Standing(config, 0.0 - loss if self._goal.maximize else loss, len(repeats), min(repeats)[3])
            for loss, _, config in self._order[:count]
            for repeats in [self._repeats[config]]
        ]


def rank_configurations(trials: pa.Table, goal: Objective, lost: Collection[str] = frozenset()) -> list[Standing]:
    """Return the configurations of a trials table that may win, best first.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        goal: The objective.
        lost: Configurations that may not win, see `find_over_limits`.
    """
    columns = dict.fromkeys(["config", "digest", "number", "repeat", "outcome", goal.column])
    rows = trials.select([*columns, *({"proxy"} & set(trials.column_names))]).to_pylist()
    return Leaderboard(goal, rows, lambda row: row["config"] not in lost).first()


def rank_trials(
    trials: pa.Table, objective: str, n: int = 1, lost: Collection[str] = frozenset()
) -> list[dict[str, Any]]:
    """Return the best configurations, best first, by the mean of the objective over their repeats; see `Leaderboard`.

    The objective is measured on validation, so test scores do not select the winner, unless only test was measured
    (`Objective.split_in`).

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`.
        n: Maximum number of configurations.
        lost: Configurations that may not win, see `find_over_limits`.

    Returns:
        Per configuration the row of its best repeat, with `config_mean` (mean of the objective's column) and
        `config_repeats` (its number of repeats).

    Raises:
        UnknownName: The objective is unknown.
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n!r}")
    return _take(trials, rank_configurations(trials, resolve_objective(objective, trials), lost)[:n])


def _take(trials: pa.Table, standings: Sequence[Standing]) -> list[dict[str, Any]]:
    digests = trials["digest"].to_pylist() if standings else []
    rows = trials.take([digests.index(s.digest) for s in standings]).to_pylist() if standings else []
    return [{**row, "config_mean": s.mean, "config_repeats": s.repeats} for row, s in zip(rows, standings, strict=True)]


def choose_winner(
    trials: pa.Table, objective: str, believed: Posterior, lost: Collection[str] = frozenset()
) -> dict[str, Any] | None:
    """Return the winning configuration: the confirmed one, else the best by posterior mean, else by observed mean.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`: the first objective of the sweep.
        believed: The model's posterior, see `sweeper.analysis.posterior.fit_posterior`.
        lost: Configurations that may not win, see `find_over_limits`.

    Returns:
        The row of its best repeat as `rank_trials` yields it, with `posterior_mean` and `posterior_sd` of the
        objective's mean (None without a favourite), `undecided` (the reason without a favourite, else empty) and
        `luckiest`: `digest`, `config_mean` and `config_repeats` of the best by observed mean, None if it is the
        winner. `confirmed` is the record of its `Confirmation`, or None. None if no configuration may win.
    """
    ranked = rank_configurations(trials, resolve_objective(objective, trials), lost)
    if not ranked:
        return None
    if confirmed := find_confirmation(trials, objective):
        standing = next((s for s in ranked if s.config == confirmed.config), None)
        if standing is not None:
            return _take_confirmed(trials, standing, confirmed, believed)
    favourite = believed.favourite
    chosen = next((s for s in ranked if favourite and s.config == favourite.config), None)
    if favourite is None or chosen is None:
        (row,) = _take(trials, ranked[:1])
        undecided = {"posterior_mean": None, "posterior_sd": None, "undecided": believed.undecided}
        return {**row, **undecided, "luckiest": None, "confirmed": None}
    (row,) = _take(trials, [chosen])
    first, luckiest = ranked[0], None
    if first.config != chosen.config:
        luckiest = {"digest": first.digest, "config_mean": first.mean, "config_repeats": first.repeats}
    posterior = {"posterior_mean": favourite.mean, "posterior_sd": favourite.sd}
    return {**row, **posterior, "undecided": "", "luckiest": luckiest, "confirmed": None}


def judge_by(spec: SweepSpec, objective: str) -> SweepSpec:
    """Return a sweep with another first objective, which is then no further one."""
    if objective == spec.objective:
        return spec
    others = tuple(name for name in spec.further_objectives if name != objective)
    return spec.model_copy(update={"objective": objective, "further_objectives": others})


def find_winner(spec: SweepSpec, trials: pa.Table, objective: str) -> dict[str, Any] | None:
    """Return the winner of a sweep by an objective, as `choose_winner` does, with a posterior that is fitted here.

    Args:
        spec: The sweep.
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`.

    Raises:
        UnknownName: The objective is unknown.
    """
    resolve_objective(objective, trials)
    spec = judge_by(spec, objective)
    return choose_winner(trials, objective, fit_posterior(spec, trials, explain=False), find_over_limits(trials, spec))


def _take_confirmed(
    trials: pa.Table, standing: Standing, confirmed: Confirmation, believed: Posterior
) -> dict[str, Any]:
    # the trials of the search chose the configuration, so its best reporting pair stands for it
    (row,) = _take(trials, [replace(standing, digest=confirmed.digest)])
    favourite = believed.favourite
    known = favourite is not None and favourite.config == confirmed.config
    posterior = {"posterior_mean": favourite.mean, "posterior_sd": favourite.sd} if favourite and known else {}
    nothing: dict[str, Any] = {"posterior_mean": None, "posterior_sd": None, "undecided": "", "luckiest": None}
    return {**row, **nothing, **posterior, "confirmed": confirmed.record()}


def find_pareto_set(
    rows: Iterable[Row], objectives: Sequence[str], feasible: Feasible = lambda _: True
) -> list[dict[str, Any]]:
    """Return the configurations that no other one matches or beats in every objective and beats in one.

    Args:
        rows: Rows of the trials table.
        objectives: Names in `OBJECTIVES`.
        feasible: Whether a row keeps the sweep's limits, see `sweeper.analysis.observations.is_feasible`.

    Returns:
        One record per configuration, sorted by the first objective: `config`, `number`, `digest` (its best repeat by
        the first objective), `repeats`, and per objective the mean over the repeats.
    """
    rows, goals = list(rows), [OBJECTIVES[name] for name in objectives]
    ineligible = find_ineligible(rows, feasible)
    repeats: dict[str, list[Row]] = {}
    for row in rows:
        values = [row.get(goal.column) for goal in goals]
        scored = row["outcome"] == "ok" and all(v is not None and math.isfinite(v) for v in values)
        if scored and row["config"] not in ineligible:
            repeats.setdefault(row["config"], []).append(row)
    groups = list(repeats.values())
    if not groups:
        return []
    means = np.array([[math.fsum(r[g.column] for r in group) / len(group) for g in goals] for group in groups])
    losses = means * [-1.0 if g.maximize else 1.0 for g in goals]
    front: list[int] = []
    for i in np.lexsort(losses.T[::-1]):  # a configuration comes after all that beat it
        known = losses[front]
        if not ((known <= losses[i]).all(axis=1) & (known < losses[i]).any(axis=1)).any():
            front.append(int(i))
    return [_record(groups[i], means[i], objectives) for i in front]


def _record(trials: Sequence[Row], mean: Any, objectives: Sequence[str]) -> dict[str, Any]:
    first = OBJECTIVES[objectives[0]]
    best = min(trials, key=lambda r: -r[first.column] if first.maximize else r[first.column])
    record = {"config": best["config"], "number": best.get("number"), "digest": best["digest"], "repeats": len(trials)}
    return {**record, **{name: float(value) for name, value in zip(objectives, mean, strict=True)}}
