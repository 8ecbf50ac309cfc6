"""Scores of a trial's merges: per task, per split and per window, with the columns and rows that they give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainables.merging.task_scores import HELD_OUT, barrier_columns, child_columns, gain_columns, share_columns, shares
from trainables.merging.taskwise import Scales
from trainables.result import TASKS, MergeRow
from trainables.spec import PairSpec
from trainables.tasks.evaluation import Score, barriers, gains
from trainables.tasks.tasks import Weights

Key = tuple[str, float]  # (method, coefficient)
Splits = Mapping[str, Score]
TIE = 1e-6
MIDPOINT: Key = ("linear", 0.5)
ENDS: tuple[Key, Key] = (("linear", 0.0), ("linear", 1.0))
_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class MergeScores:
    """Scores of one merge, per task and averaged over tasks, before and after the BatchNorm re-estimation.

    Attributes:
        tasks: One mapping split -> score per task.
        raw: Validation and test scores before the re-estimation; empty without BatchNorm.
        scales: Scale of each child, of `taskwise_arithmetic` only.
    """

    tasks: Sequence[Splits]
    raw: Sequence[Splits]
    scales: Scales = ()

    @property
    def coefficients(self) -> str | None:
        """The scales as text; None without any."""
        return ", ".join(f"{s:g}" for s in self.scales) or None

    @property
    def mean(self) -> Splits:
        """Split -> mean of loss and of accuracy over the tasks."""
        return mean_of(self.tasks)

    @property
    def finite(self) -> bool:
        """Return whether all losses are finite; weights that are not finite never have finite losses."""
        return all(math.isfinite(s.loss) for splits in self.tasks for s in splits.values())


def mean_of(tasks: Sequence[Splits]) -> Splits:
    """Return split -> mean of loss and of accuracy over the tasks."""
    if len(tasks) == 1:
        return tasks[0]
    return {
        s: Score(sum(t[s].loss for t in tasks) / len(tasks), sum(t[s].accuracy for t in tasks) / len(tasks))
        for s in (tasks[0] if tasks else ())
    }


@dataclass(frozen=True)
class MergeCurves:
    """All merges of a trial with their scores.

    Attributes:
        merges: (method, coefficient) -> its scores.
        parents: Scores of A and of B, or of each task's child on its task, computed as those of the merges.
        others: Scores of further children of one task.
        ensemble: Split -> score of the children's mean logits, an upper reference; empty for several tasks.
        chosen: The merge with the lowest validation loss (mean over tasks) of all methods, coefficients and windows.
        cka: Linear CKA of the children's penultimate features on validation.
        weights: State dict of the chosen merge; several tasks have the key prefixes `a/`, `b/` and so on.
        recalibrated: State dicts of A, B and the linear merge at alpha = 1/2 after the re-estimation, for one task.
        midpoints: Pair of tasks -> scores on both of the midpoint of their children; empty for one task.
        windows: Number of checkpoints -> as `merges`, of the means of each child's last checkpoints.
        chosen_window: Window of the chosen merge; None for the children's last weights.
    """

    merges: Mapping[Key, MergeScores]
    parents: Sequence[Splits]
    others: Sequence[Splits]
    ensemble: Splits
    chosen: Key
    cka: float
    weights: Weights = field(repr=False)
    recalibrated: Mapping[str, Weights] = field(repr=False)
    midpoints: Mapping[tuple[int, int], Sequence[Splits]] = field(default_factory=lambda: {})
    windows: Mapping[int, Mapping[Key, MergeScores]] = field(default_factory=lambda: {})
    chosen_window: int | None = None

    @property
    def by_window(self) -> Mapping[int | None, Mapping[Key, MergeScores]]:
        """Window, None for the children's last weights, -> its merges."""
        return {None: self.merges, **self.windows}

    @property
    def chosen_scores(self) -> MergeScores:
        """Scores of the chosen merge."""
        return self.by_window[self.chosen_window][self.chosen]

    def describe_choice(self) -> dict[str, Any]:
        """Return the columns that say which merge is chosen."""
        return {
            "chosen_merge": self.chosen[0], "chosen_coefficient": self.chosen[1],
            "chosen_coefficients": self.chosen_scores.coefficients, "chosen_window": self.chosen_window,
        }  # fmt: skip

    @property
    def middle(self) -> MergeScores:
        """Scores of the linear merge with equal weights."""
        return self.merges[middle_of(len(self.parents))]

    def normalised(self, scored: MergeScores, split: str) -> list[float]:
        """Return the normalised accuracies of a merge, one per task; none for a single task."""
        tasks = scored.tasks
        return shares(tasks, self.parents, split) if len(tasks) > 1 else []

    def fault(self) -> str:
        """Return a sentence on the first parent or linear merge that is not finite; empty if all are finite."""
        for parent in (*self.parents, *self.others):
            if wrong := [s for s, score in parent.items() if not math.isfinite(score.loss)]:
                return f"a parent's {_SPLIT_NAMES[wrong[0]]} loss is not finite"
        line = [alpha for (method, alpha), s in self.merges.items() if method == "linear" and not s.finite]
        return f"the linear merge at alpha = {line[0]:g} is not finite" if line else ""

    def lost(self) -> str:
        """Return words on the merges that are not finite; empty if all are finite."""
        methods: dict[str, list[str]] = {}
        for (method, coefficient), scored in (item for merges in self.by_window.values() for item in merges.items()):
            if not scored.finite:
                methods.setdefault(method, []).append(f"{coefficient:g}")
        return "; ".join(f"{method} at {', '.join(at)} is not finite" for method, at in methods.items())

    def columns(self) -> dict[str, float]:
        """Return the columns of `trainables.result.SCORES` that this trial defines."""
        a, b, *_ = self.parents
        merged, chosen = self.middle.mean, self.chosen_scores.mean
        out: dict[str, float] = {}
        for who, splits in {"a": a, "b": b, "merged": merged, "chosen": chosen, "ensemble": self.ensemble}.items():
            for split, value in splits.items():
                out[f"{who}_loss_{split}"] = value.loss
                out[f"{who}_accuracy_{split}"] = value.accuracy
        if len(self.middle.tasks) > 1:
            # no parent of several tasks is the best, and the ends of a path join a head to another task's backbone
            own = share_columns(self.middle.tasks, self.chosen_scores.tasks, self.parents)
            barrier = barrier_columns(self.midpoints, self.parents)
            return out | own | child_columns(self.parents) | gain_columns(merged, chosen, self.parents) | barrier
        line = {alpha: s.mean for (method, alpha), s in self.merges.items() if method == "linear"}
        return out | gains(a, b, merged) | barriers(line)

    def rows(self, spec: PairSpec) -> Iterator[MergeRow]:
        """Yield the rows of the merges table."""
        for window, key, scored in ((w, k, s) for w, merges in self.by_window.items() for k, s in merges.items()):
            raw, several = mean_of(scored.raw), len(scored.tasks) > 1
            own = {s: self.normalised(scored, s) for s in HELD_OUT}
            yield MergeRow(
                digest=spec.digest,
                config=spec.config,
                method=key[0],
                coefficient=key[1],
                **{f"loss_{s}": _finite(v.loss) for s, v in scored.mean.items()},
                **{f"accuracy_{s}": v.accuracy for s, v in scored.mean.items()},
                **{f"raw_loss_{s}": _finite(raw[s].loss) if raw else None for s in ("val", "test")},
                **{f"raw_accuracy_{s}": raw[s].accuracy if raw else None for s in ("val", "test")},
                coefficients=scored.coefficients,
                window=window,
                **{
                    f"accuracy_{name}_{s}": task[s].accuracy if several else None
                    for name, task in zip(TASKS, scored.tasks, strict=False)
                    for s in HELD_OUT
                },
                **{f"normalised_accuracy_{s}": _finite(sum(v) / len(v)) if v else None for s, v in own.items()},
                **{f"normalised_accuracy_worst_{s}": _finite(min(v)) if v else None for s, v in own.items()},
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def middle_of(tasks: int) -> Key:
    """Return the key of the linear merge with equal weights, for a number of tasks."""
    return ("linear", 1 / tasks) if tasks > 2 else MIDPOINT
