"""Remedies: whether another merge method makes up for too little or too much noise.

Trials with a noise below a third of the linear merge's best one have too little, those with more than three times it
too much. There, each other method is compared with the linear merge of the same children.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from sweeper.analysis.curve.merge_methods import MethodCurve, choose_coefficients
from sweeper.analysis.curve.windows import Change
from sweeper.analysis.stages.designed import select_designed
from sweeper.formatting import method_words, number, pluralize
from trainables.result import Outcome

FACTOR = 3.0
FEWEST = 4
QUESTION = "Can a merge method make up for the wrong noise?"
_AMOUNT = {"low": "little", "high": "much"}
_RESIDUE = 1e-9
_NORMAL = float(stats.norm.ppf(0.95))


@dataclass(frozen=True)
class Remedy:
    """What the best other merge method does at too little or too much noise, on test.

    Intervals are of 90 %, Student's t over configurations. Those of the method count the choice among all of them
    (Bonferroni).

    Attributes:
        side: `low` or `high`.
        limit: Noise that bounds this side.
        configurations: Viable configurations of this side.
        cost: Loss of the linear merge there, minus that at its best noise [nat]; None with fewer than `FEWEST`
            configurations.
        method: Other method with the lowest loss there.
        methods: Number of other methods.
        change: Its loss minus that of the linear merge of the same children [nat].
        accuracy: Its accuracy minus that of the linear merge of the same children [1].
        rest: Its loss minus that of the linear merge at the best noise [nat].
    """

    side: str
    limit: float
    configurations: int
    cost: Change | None = None
    method: str | None = None
    methods: int = 0
    change: Change | None = None
    accuracy: Change | None = None
    rest: Change | None = None

    def record(self) -> dict[str, Any]:
        """Return the remedy as a record for JSON."""
        return asdict(self)

    @property
    def answer(self) -> str:
        """The answer to `QUESTION` for this side, in a few words."""
        if self.cost is None or self.change is None or self.rest is None:
            return f"not known, since {self.configurations} of the needed {FEWEST} configurations lie there"
        if _low(self.cost) <= 0:
            return "no need is seen"
        if _high(self.change) >= 0:
            return "no"
        return f"{'yes' if _low(self.rest) <= 0 else 'in part'}, by {method_words(str(self.method))}"


def find_remedies(trials: pa.Table, merges: pa.Table, noise: str, curves: Sequence[MethodCurve]) -> tuple[Remedy, ...]:
    """Return the remedies for too little and too much noise; none without a best noise of the linear merge.

    Args:
        trials: Trials table.
        merges: Merges table.
        noise: Name of the noise.
        curves: As `fit_merge_methods` returns.
    """
    linear = next((c for c in curves if c.method == "linear"), None)
    if linear is None or linear.optimum is None or linear.loss is None or len(curves) < 2:
        return ()
    spread = (linear.loss_high or linear.loss) - (linear.loss_low or linear.loss)
    best = linear.loss, spread / (2 * _NORMAL)
    scores = _average(select_designed(trials, noise), merges, noise)
    return tuple(
        _find_remedy(side, limit, [own for level, own in scores if (level < limit) == (side == "low")], best)
        for side, limit in (("low", linear.optimum / FACTOR), ("high", linear.optimum * FACTOR))
    )


def describe_remedies(remedies: Sequence[Remedy]) -> tuple[str, ...]:
    """Return the answer to `QUESTION` in one sentence, then the numbers per side; empty without remedies."""
    if not remedies:
        return ()
    if {r.answer for r in remedies} == {"no"}:
        answer = "No, neither for too little nor for too much."
    else:
        answer = " ".join(f"For too {_AMOUNT[r.side]} noise: {r.answer}." for r in remedies)
    return f"{QUESTION} {answer}", *(s for r in remedies if (s := _describe(r)))


def _describe(remedy: Remedy) -> str:
    if remedy.cost is None or remedy.change is None or remedy.rest is None:
        return ""
    side, count = "below" if remedy.side == "low" else "above", pluralize(remedy.configurations, "configuration")
    lost = _write(remedy.cost, "nat", "more loss than at its best noise")
    cost = (
        f"With too {_AMOUNT[remedy.side]} noise ({side} {number(remedy.limit)}, {count}), the linear merge has {lost}."
    )
    if _low(remedy.cost) <= 0:
        return cost
    best = f", the best of {remedy.methods} other methods," if remedy.methods > 1 else ""
    rest = _write(remedy.rest, "nat", "above the best linear merge")
    return (
        f"{cost} There, {method_words(str(remedy.method))}{best} changes the loss by {_write(remedy.change, 'nat')} "
        f"and the accuracy by {_write(remedy.accuracy, 'points', scale=100)}."
        f"{f' It stays {rest}.' if remedy.answer.startswith('in part') else ''}"
    )


def _write(change: Change | None, unit: str, what: str = "", scale: float = 1.0) -> str:
    """Return a change with unit and interval, all with the decimals that give the interval's half width two digits."""
    if change is None or change.low is None or change.high is None:
        return "-"
    mean, low, high = (scale * v for v in (change.mean, change.low, change.high))
    half = (high - low) / 2
    # a mean of equal scores leaves a residue of floating point
    decimals = max(0, 1 - math.floor(math.log10(half))) if half > _RESIDUE else 6
    mean, low, high = (round(v, decimals) for v in (mean, low, high))
    words = " ".join(filter(None, (unit, what)))
    shown = (f"{v:+.{decimals}f}" if v else "0" for v in (mean, low, high))
    return "{} {words} ({} to {})".format(*shown, words=words)


def _low(change: Change) -> float:
    return -math.inf if change.low is None else change.low


def _high(change: Change) -> float:
    return math.inf if change.high is None else change.high


Scores = Mapping[str, tuple[float, float]]
"""Method -> loss and accuracy on test."""


def _average(trials: pa.Table, merges: pa.Table, noise: str) -> list[tuple[float, Scores]]:
    """Return noise and scores of every viable configuration, means over its repeats."""
    chosen = choose_coefficients(merges)
    rows: dict[str, list[tuple[float, str]]] = {}
    for row in trials.select(["config", "digest", "outcome", f"noise_{noise}"]).to_pylist():
        level = row[f"noise_{noise}"]
        if row["outcome"] == Outcome.OK and level is not None and level > 0:
            rows.setdefault(row["config"], []).append((level, row["digest"]))
    found: list[tuple[float, Scores]] = []
    for repeats in rows.values():
        known = {m: [own[d] for _, d in repeats if d in own] for m, own in chosen.items()}
        scores = {
            m: (float(np.mean([s.loss_test for s in v])), float(np.mean([s.accuracy_test for s in v])))
            for m, v in known.items()
            if len(v) == len(repeats)
        }
        if "linear" in scores:
            found.append((math.exp(float(np.mean([math.log(level) for level, _ in repeats]))), scores))
    return found


def _find_remedy(side: str, limit: float, scores: Sequence[Scores], best: tuple[float, float]) -> Remedy:
    methods = sorted({m for own in scores for m in own if all(m in other for other in scores)} - {"linear"})
    if len(scores) < FEWEST or not methods:
        return Remedy(side, limit, len(scores))
    linear = np.array([own["linear"] for own in scores])
    others = {m: np.array([own[m] for own in scores]) for m in methods}
    method = min(others, key=lambda m: float(others[m][:, 0].mean()))
    other, level = others[method], 0.1 / len(methods)
    change, accuracy = (other - linear).T
    return Remedy(
        side, limit, len(scores), _estimate(linear[:, 0] - best[0], best[1]), method, len(methods),
        _estimate(change, level=level), _estimate(accuracy, level=level),
        _estimate(other[:, 0] - best[0], best[1], level),
    )  # fmt: skip


def _estimate(values: np.ndarray, error: float = 0.0, level: float = 0.1) -> Change:
    """Return mean and interval of `values`, with a further standard error of what was subtracted from all of them."""
    mean = float(values.mean())
    spread = math.hypot(float(values.std(ddof=1)) / math.sqrt(len(values)), error)
    half = float(stats.t.ppf(1 - level / 2, len(values) - 1)) * spread
    return Change(mean, mean - half, mean + half)
