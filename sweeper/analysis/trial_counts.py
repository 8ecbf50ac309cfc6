"""Counts of a sweep's trials and their warnings, shared by the command line, the service and the dashboards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.config.resources import Resources
from sweeper.formatting import at_share, number, pluralize
from sweeper.search.stages import MAP, TITLES
from sweeper.storage.schema import SEPARATOR

COUNTED = ("config", "number", "outcome", "outcome_detail", "device_seconds")
"""Columns that `count_trials` reads."""


@dataclass(frozen=True)
class TrialCounts:
    """Counts and sums over the trials of a sweep.

    Attributes:
        trials: Finished trials.
        configs: Configurations with a finished trial.
        done: Configurations of the search that are pruned or have all their repeats.
        failed: Configurations of the search whose trials all failed.
        outcomes: Outcome -> number of trials, most frequent first.
        device_seconds: Total time on the devices; None if trials exist but none records it.
        first_details: Outcome other than `ok` -> detail of the first trial that has one.
    """

    trials: int
    configs: int
    done: int
    failed: int
    outcomes: Mapping[str, int]
    device_seconds: float | None
    first_details: Mapping[str, str]


def count_trials(rows: Iterable[Mapping[str, Any]], repeats: int = 1) -> TrialCounts:
    """Return the counts of a sweep's trials.

    Args:
        rows: Rows of the trials table with the columns `COUNTED`.
        repeats: Trials that a configuration needs to be done.
    """
    rows = list(rows)
    numbers = {r["number"] for r in rows} - {None}
    good = Counter(r["number"] for r in rows if r["outcome"] != "failed")
    pruned = {r["number"] for r in rows if r["outcome"] == "pruned"}
    seconds = [s for r in rows if (s := r["device_seconds"]) is not None and math.isfinite(s)]
    details: dict[str, str] = {}
    for row in rows:
        if row["outcome"] != "ok" and not details.get(row["outcome"]):
            details[row["outcome"]] = row["outcome_detail"]
    return TrialCounts(
        trials=len(rows),
        configs=len({r["config"] for r in rows}),
        done=sum(n in pruned or good[n] >= repeats for n in numbers),
        failed=sum(n not in good for n in numbers),
        outcomes=dict(Counter(str(r["outcome"]) for r in rows).most_common()),
        device_seconds=math.fsum(seconds) if seconds or not rows else None,
        first_details=details,
    )


def count_gpus(row: Mapping[str, Any], resources: Resources) -> float:
    """Return the number of GPUs that a trial with these resources held; 0 on a CPU."""
    return resources.gpus(row.get("members") or 2) if str(row.get("device")).startswith("cuda") else 0.0


@dataclass(frozen=True)
class StageCosts:
    """Device time of a sweep by stage.

    Attributes:
        stages: Stage as people call it -> device time of its trials [s]; empty without stages.
        proxy: Share of the training budget at which the map ran; None for the full one.
        saved_by_proxy, saved_by_pruning: Training time that was left out, by the trials' time per step [s].
    """

    stages: Mapping[str, float]
    proxy: float | None
    saved_by_proxy: float
    saved_by_pruning: float

    def describe(self) -> str:
        """Return the costs in one line; empty without stages and savings."""
        at = {TITLES[MAP]: at_share(self.proxy)}
        parts = [f"{stage} {number(seconds)} s{at.get(stage, '')}" for stage, seconds in self.stages.items()]
        saved = (("the proxy", self.saved_by_proxy), ("pruning", self.saved_by_pruning))
        left_out = [f"{what} saved {number(seconds)} s of training" for what, seconds in saved if seconds > 0]
        return "; ".join([*([", ".join(parts)] if parts else []), *left_out])


STAGE_COLUMNS = ("stage", "proxy", "device_seconds", "seconds_train", "steps", "pruned_step")
"""Columns that `count_costs` reads."""


def count_costs(rows: Iterable[Mapping[str, Any]]) -> StageCosts:
    """Return the device time of trials by stage, and what pruning and the proxy saved.

    A trial of a proxy saves the rest of its training, and a pruned one its remaining steps. The scores would cost the
    same.

    Args:
        rows: Rows of the trials table with the columns `STAGE_COLUMNS`.
    """
    stages: dict[str, float] = {}
    share, short, rows = None, 0.0, list(rows)
    for row in rows:
        if title := TITLES.get(row["stage"] or ""):
            stages[title] = stages.get(title, 0.0) + (row["device_seconds"] or 0.0)
        if row["proxy"]:
            share = row["proxy"]
            short += (row["seconds_train"] or 0.0) * (1.0 / share - 1.0)
    return StageCosts(stages, share, short, sum_pruned(rows))


def sum_pruned(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the training time that pruning left out: the remaining steps of the trials at their time per step [s].

    The estimate leaves out the final merging and scoring, and repeats that did not start.

    Args:
        rows: Rows of the trials table.
    """
    return math.fsum(
        r["seconds_train"] * (r["steps"] - r["pruned_step"]) / r["pruned_step"]
        for r in rows
        if r.get("pruned_step") and r.get("steps")
    )


@dataclass(frozen=True)
class TrialWarning:
    """One kind of warning.

    Attributes:
        key: Name of the kind.
        sentence: Sentence of the first trial with it.
        trials: Number of trials with it.
    """

    key: str
    sentence: str
    trials: int


def split_warnings(text: str | None) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) per warning in a trial's column `warnings`, which reads `key: sentence | key: sentence`."""
    for part in (text or "").split(SEPARATOR):
        if part.strip():
            key, _, sentence = part.partition(": ")
            yield key.strip(), sentence.strip() or key.strip()


def count_warnings(texts: Iterable[str | None]) -> list[TrialWarning]:
    """Return the warnings of the trials, one per key, the most frequent first."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for text in texts:
        for key, sentence in dict(split_warnings(text)).items():
            first.setdefault(key, sentence)
            counts[key] = counts.get(key, 0) + 1
    return [TrialWarning(key, first[key], counts[key]) for key in sorted(first, key=lambda k: -counts[k])]


def format_lines(warnings: Iterable[TrialWarning], trials: int) -> list[str]:
    """Return one line per warning, with its number of trials."""
    return [
        f"{d.key} ({'all' if d.trials == trials else d.trials} of {pluralize(trials, 'trial')}): {d.sentence}"
        for d in warnings
    ]
