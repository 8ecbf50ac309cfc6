"""Confirmation of a sweep's winner: fresh pairs that chose nothing report it on test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from scipy.stats import t

from sweeper.search.objectives import Objective, resolve_objective
from sweeper.search.stages import CHOOSE, REPORT, SEARCH
from trainables.result import Outcome

REPORTED = (
    "gain_mean_loss", "gain_best_loss", "merged_loss", "merged_accuracy", "a_loss", "a_accuracy", "b_loss",
    "b_accuracy", "chosen_loss", "chosen_accuracy", "ensemble_loss", "ensemble_accuracy", "barrier_frankle_loss",
)  # fmt: skip
"""Scores that a confirmation reports on test, by the stems of their columns."""


@dataclass(frozen=True)
class Score:
    """Mean of a score over n pairs and its standard error; the error of a single pair is None."""

    mean: float
    error: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """90 % interval of the expectation by Student's t; infinite for a single pair."""
        if self.error is None:
            return -math.inf, math.inf
        half = float(t.ppf(0.95, self.n - 1)) * self.error
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Compared:
    """A candidate of the choice: configuration, mean objective on validation, and whether one of its pairs failed."""

    config: str
    score: Score | None
    failed: bool


@dataclass(frozen=True)
class Confirmation:
    """The confirmed winner.

    Attributes:
        config: Digest of its configuration.
        digest: Digest of its best reporting trial on validation.
        pairs: Number of its reporting pairs.
        objective: The objective on test; None if it is not defined there.
        scores: Stem of a score in `REPORTED` -> its value on test.
        failed: Configurations that the choice preferred, and that failed in the report.
        compared: The candidates of the choice.
    """

    config: str
    digest: str
    pairs: int
    objective: Score | None
    scores: Mapping[str, Score]
    failed: tuple[str, ...]
    compared: tuple[Compared, ...]

    def record(self) -> dict[str, Any]:
        """Return the confirmation as a record for JSON."""
        return asdict(self)


def find_confirmation(trials: pa.Table, objective: str) -> Confirmation | None:
    """Return the confirmation of a sweep's winner; None without a configuration whose reporting pairs are all viable.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`.
    """
    goal = resolve_objective(objective, trials)
    columns = [f"{stem}_test" for stem in REPORTED]
    wanted = dict.fromkeys(
        ["config", "digest", "number", "repeat", "outcome", "stage", goal.column, goal.on("test").column, *columns]
    )
    rows = trials.select(list(wanted)).to_pylist()
    reporting = sorted(
        (r for r in rows if r["stage"] == REPORT and r["outcome"] != Outcome.FAILED),
        key=lambda r: (r["number"], r["repeat"]),
    )
    broken = dict.fromkeys(r["config"] for r in reporting if r["outcome"] != Outcome.OK)
    config = next((r["config"] for r in reversed(reporting) if r["config"] not in broken), None)
    if config is None:
        return None
    pairs = [r for r in reporting if r["config"] == config]
    scores = {stem: s for stem in REPORTED if (s := summarize_pairs(pairs, f"{stem}_test"))}
    return Confirmation(
        config=config,
        digest=_find_best(pairs, goal)["digest"],
        pairs=len(pairs),
        objective=summarize_pairs(pairs, goal.on("test").column),
        scores=scores,
        failed=tuple(broken),
        compared=_compare([r for r in rows if r["stage"] == CHOOSE], goal.column),
    )


def ignore_confirmation(trials: pa.Table) -> pa.Table:
    """Return trials whose fresh pairs count as pairs of the search: these confirm what another objective chose."""
    stages = [SEARCH if stage in (CHOOSE, REPORT) else stage for stage in trials["stage"].to_pylist()]
    at = trials.schema.get_field_index("stage")
    return trials.set_column(at, trials.schema.field(at), pa.array(stages, trials.schema.field(at).type))


def group_reports(
    rows: Iterable[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]
) -> dict[Any, list[Mapping[str, Any]]]:
    """Return key -> its reporting pairs, for the keys whose pairs are all viable; a trial that failed does not count.

    Args:
        rows: Rows of the trials table with `stage` and `outcome`.
        key: Returns what a pair confirms, such as its configuration.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["stage"] == REPORT and row["outcome"] != Outcome.FAILED:
            groups.setdefault(key(row), []).append(row)
    return {k: group for k, group in groups.items() if all(row["outcome"] == Outcome.OK for row in group)}


def _find_best(pairs: Sequence[Mapping[str, Any]], goal: Objective) -> Mapping[str, Any]:
    sign = -1.0 if goal.maximize else 1.0
    return min(pairs, key=lambda r: math.inf if r[goal.column] is None else sign * r[goal.column])


def summarize_pairs(rows: Sequence[Mapping[str, Any]], column: str) -> Score | None:
    """Return the mean of a column with its standard error; None if a value is missing or not finite."""
    values = [r[column] for r in rows]
    if not values or any(v is None or not math.isfinite(v) for v in values):
        return None
    return Score(*estimate_mean(values), len(values))


def estimate_mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of values with its standard error; the error of a single value is None."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def _compare(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[Compared, ...]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: (r["number"], r["repeat"])):
        groups.setdefault(row["config"], []).append(row)
    return tuple(
        Compared(
            config,
            summarize_pairs([r for r in group if r["outcome"] == Outcome.OK], column),
            any(r["outcome"] != Outcome.OK for r in group),
        )
        for config, group in groups.items()
    )
