"""Objectives: the numbers of a trial that a sweep optimizes, and their values for the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainables.registry import Registry
from trainables.result import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_CLASSES = 10
COLLAPSE = 0.05
"""A merge that loses more than this share of ln C against its parents has collapsed."""
SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Objective:
    """One objective. A search uses the validation split; `on` returns the objective on another split.

    Attributes:
        column: Column of the trials table.
        label: Name for people, with its unit in brackets.
        maximize: Whether larger is better.
        transform: (value, cap) -> value for the study.
        capped: Whether a bad trial gets the cap of a loss; else it gets the worst value so far.
        one_task: Whether it is undefined for children of different tasks.
        several_tasks: Whether it is defined for children of different tasks only.
        inverse: Value for the study -> value of the column, if uncapped.
    """

    column: str
    label: str
    maximize: bool
    transform: Callable[[float, float], float]
    capped: bool = True
    one_task: bool = False
    several_tasks: bool = False
    inverse: Callable[[float], float] = float

    def tell(self, row: Mapping[str, Any]) -> float:
        """Return the value of a trial row for the study.

        Merged losses reach 150 and would dominate, so the cap is 2 ln C for C classes. A trial that is not `ok` or has
        no finite value gets the cap: the sampler learns from it, and it never wins. Uncapped objectives return the
        value of every trial.
        """
        cap = 2.0 * math.log(row.get("classes") or DEFAULT_CLASSES)
        value = row.get(self.column)
        if value is None or not math.isfinite(value) or (self.capped and row["outcome"] != "ok"):
            value = -cap if self.maximize else cap
        return self.transform(float(value), cap)

    def is_better(self, a: float, b: float) -> bool:
        """Return whether the value `a` is better than `b`."""
        return a > b if self.maximize else a < b

    def on(self, split: str) -> Objective:
        """Return the objective on another split; an objective without splits, such as the cost, stays the same.

        Raises:
            ValueError: The split is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        stem = self.column.removesuffix("_val")
        if stem == self.column:
            return self
        label = self.label.replace("validation", SPLIT_WORDS[split])
        return replace(self, column=f"{stem}_{split}", label=label)

    def split_in(self, trials: pa.Table) -> str:
        """Return the split of these trials: validation, or test if only test was measured (an imported table)."""
        test = self.on("test").column
        empty = trials.column(self.column).null_count == trials.num_rows
        return "test" if empty and trials.column(test).null_count < trials.num_rows else "val"


OBJECTIVES: Registry[Objective] = Registry("objective")
OBJECTIVES.add(
    "merged_loss",
    Objective(
        "merged_loss_val",
        "merged validation loss [nat]",
        False,
        lambda v, cap: math.log(max(min(v, cap), 1e-12)),
        inverse=math.exp,
    ),
)
OBJECTIVES.add(
    "merged_accuracy", Objective("merged_accuracy_val", "merged validation accuracy", True, lambda v, cap: max(v, 0.0))
)


def _clip(value: float, cap: float) -> float:
    return max(-cap, min(cap, value))


OBJECTIVES.add(
    "gain_mean", Objective("gain_mean_loss_val", "validation loss gain over the mean parent [nat]", True, _clip)
)
OBJECTIVES.add(
    "gain_best",
    Objective("gain_best_loss_val", "validation loss gain over the better parent [nat]", True, _clip, one_task=True),
)
OBJECTIVES.add(
    "barrier",
    Objective("barrier_frankle_loss_val", "validation loss barrier [nat]", False, _clip, one_task=True),
)
OBJECTIVES.add(
    "gain_tasks",
    Objective(
        "gain_tasks_loss_val", "validation loss gain of the chosen merge over each task's child [nat]", True, _clip,
        several_tasks=True,
    ),
)  # fmt: skip
for _name, _column, _label in (
    ("normalised_accuracy", "merged_normalised_accuracy_val", "normalised validation accuracy"),
    (
        "chosen_normalised_accuracy",
        "chosen_normalised_accuracy_val",
        "normalised validation accuracy of the chosen merge",
    ),
    (
        "worst_normalised_accuracy",
        "chosen_normalised_accuracy_worst_val",
        "normalised validation accuracy of the chosen merge on its worst task",
    ),
):
    OBJECTIVES.add(_name, Objective(_column, _label, True, lambda v, cap: max(v, 0.0), several_tasks=True))
# of seconds, the ratios count
OBJECTIVES.add(
    "cost",
    Objective(
        "device_seconds",
        "device time of a trial [s]",
        False,
        lambda v, _: math.log(max(v, 1e-6)),
        capped=False,
        inverse=math.exp,
    ),
)


def resolve_objective(name: str, trials: pa.Table) -> Objective:
    """Return an objective on the split of these trials; see `Objective.split_in`.

    Raises:
        UnknownName: The objective is unknown.
    """
    goal = OBJECTIVES[name]
    return goal.on(goal.split_in(trials))


@dataclass(frozen=True)
class Observation:
    """Observation of a configuration for the sampler.

    Attributes:
        values: Mean over the repeats per objective; None if it ended without a value.
        constraints: Name -> value, satisfied if <= 0.
        pruned: Whether pruning stopped it.
        broken: Whether one of its trials has no valid result, so that it cannot win.
        collapsed: Whether the merge of one of its trials lost much against the parents, see `COLLAPSE`.
        proxy: Whether its trials had a share of the training budget.
    """

    values: tuple[float, ...] | None = None
    constraints: Mapping[str, float] = field(default_factory=lambda: {})
    pruned: bool = False
    broken: bool = False
    collapsed: bool = False
    proxy: bool = False
