"""Scores of merges of several tasks: normalised accuracy, gains and barriers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from trainables.result import TASKS
from trainables.tasks.evaluation import Score, normalised_accuracy

Splits = Mapping[str, Score]
HELD_OUT = ("val", "test")


def shares(merged: Sequence[Splits], children: Sequence[Splits], split: str) -> list[float]:
    """Return each task's accuracy of a merge over that of the task's child; NaN if a child has 0.

    Source: Ilharco et al. 2022, arXiv 2212.04089, section 4.
    """
    pairs = zip(merged, children, strict=True)
    return [normalised_accuracy([m[split].accuracy], [c[split].accuracy]) for m, c in pairs]


def share_columns(merged: Sequence[Splits], chosen: Sequence[Splits], children: Sequence[Splits]) -> dict[str, float]:
    """Return the columns of normalised accuracy: mean, worst and, of the chosen merge, per task."""
    out: dict[str, float] = {}
    for split in HELD_OUT:
        for who, tasks in {"merged": merged, "chosen": chosen}.items():
            own = shares(tasks, children, split)
            out[f"{who}_normalised_accuracy_{split}"] = sum(own) / len(own)
            out[f"{who}_normalised_accuracy_worst_{split}"] = min(own)
        for task, share in zip(TASKS, shares(chosen, children, split), strict=False):
            out[f"chosen_normalised_accuracy_{task}_{split}"] = share
    return out


def child_columns(children: Sequence[Splits]) -> dict[str, float]:
    """Return loss and accuracy of the children from the third on, each on its task."""
    out: dict[str, float] = {}
    for task, splits in zip(TASKS[2:], children[2:], strict=False):
        for split in HELD_OUT:
            out[f"{task}_loss_{split}"] = splits[split].loss
            out[f"{task}_accuracy_{split}"] = splits[split].accuracy
    return out


def gain_columns(merged: Splits, chosen: Splits, children: Sequence[Splits]) -> dict[str, float]:
    """Return `gain_mean_*` of the linear merge and `gain_tasks_loss_*` of the chosen one.

    Args:
        merged: Scores of the linear merge, means over tasks.
        chosen: Scores of the chosen merge, means over tasks.
        children: Scores of each child on its task.
    """
    out: dict[str, float] = {}
    for split in merged:
        loss = sum(c[split].loss for c in children) / len(children)
        accuracy = sum(c[split].accuracy for c in children) / len(children)
        out[f"gain_mean_loss_{split}"] = loss - merged[split].loss
        out[f"gain_mean_accuracy_{split}"] = merged[split].accuracy - accuracy
        out[f"gain_tasks_loss_{split}"] = loss - chosen[split].loss
    return out


def barrier_columns(
    midpoints: Mapping[tuple[int, int], Sequence[Splits]], children: Sequence[Splits]
) -> dict[str, float]:
    """Return the barriers between pairs of tasks, mean and largest over pairs.

    The barrier of tasks i and j is the mean over both of L_t((theta_i + theta_j)/2) - L_t(theta_t), theta the shared
    parameters, each task with its own head.

    Args:
        midpoints: (i, j) -> scores on tasks i and j of the midpoint of children i and j.
        children: Scores of each child on its task.

    Source: Frankle et al. 2019, arXiv 1912.05671, at alpha = 1/2, with each end on its own task.
    """
    out: dict[str, float] = {}
    for split in HELD_OUT:
        for what in ("loss", "error"):
            heights = [
                sum(_value(m[split], what) - _value(children[t][split], what) for t, m in zip(pair, at, strict=True))
                / 2
                for pair, at in midpoints.items()
            ]
            out[f"barrier_tasks_mean_{what}_{split}"] = sum(heights) / len(heights)
            out[f"barrier_tasks_worst_{what}_{split}"] = max(heights)
    return out


def pairs_of(count: int) -> list[tuple[int, int]]:
    """Return all pairs of a number of tasks."""
    return list(combinations(range(count), 2))


def _value(score: Score, what: str) -> float:
    return score.loss if what == "loss" else 1 - score.accuracy
