"""Rows beside that of the trial, and the output that holds them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.result.columns import col
from trainables.result.trial import TrialResult


@dataclass(frozen=True)
class MergeRow:
    """One merge of one pair at one coefficient; a trial has a curve of rows per method."""

    digest: str = col("trial")
    config: str = col("configuration of the trial")
    method: str = col("name of the merge")
    coefficient: float = col(
        "coefficient of the merge: alpha, s, gamma, the number of ingredients of a greedy soup, or the mean scale of "
        "taskwise_arithmetic", "1",
    )  # fmt: skip
    loss_train: float | None = col(
        "training loss after BatchNorm recalibration; empty where the merge is not finite", "nat"
    )
    loss_val: float | None = col(
        "validation loss after BatchNorm recalibration; empty where the merge is not finite", "nat"
    )
    loss_test: float | None = col("test loss after BatchNorm recalibration; empty where the merge is not finite", "nat")
    accuracy_train: float | None = col("training accuracy after BatchNorm recalibration", "1")
    accuracy_val: float | None = col("validation accuracy after BatchNorm recalibration", "1")
    accuracy_test: float | None = col("test accuracy after BatchNorm recalibration", "1")
    raw_loss_val: float | None = col("validation loss before recalibration; empty without BatchNorm", "nat")
    raw_loss_test: float | None = col("test loss before recalibration; empty without BatchNorm", "nat")
    raw_accuracy_val: float | None = col("validation accuracy before recalibration; empty without BatchNorm", "1")
    raw_accuracy_test: float | None = col("test accuracy before recalibration; empty without BatchNorm", "1")
    coefficients: str | None = col("scale of each child, in order; only taskwise_arithmetic", default=None)
    window: int | None = col(
        "last checkpoints that each child averages before the merge, or size of its `ema`; empty without one",
        "checkpoints",
        default=None,
    )  # fmt: skip
    accuracy_a_val: float | None = col(
        "validation accuracy on task A; empty for children of one task", "1", default=None
    )
    accuracy_a_test: float | None = col("test accuracy on task A; empty for children of one task", "1", default=None)
    accuracy_b_val: float | None = col(
        "validation accuracy on task B; empty for children of one task", "1", default=None
    )
    accuracy_b_test: float | None = col("test accuracy on task B; empty for children of one task", "1", default=None)
    accuracy_c_val: float | None = col(
        "validation accuracy on task C; empty unless the trial has such a task", "1", default=None
    )
    accuracy_c_test: float | None = col(
        "test accuracy on task C; empty unless the trial has such a task", "1", default=None
    )
    accuracy_d_val: float | None = col(
        "validation accuracy on task D; empty unless the trial has such a task", "1", default=None
    )
    accuracy_d_test: float | None = col(
        "test accuracy on task D; empty unless the trial has such a task", "1", default=None
    )
    accuracy_e_val: float | None = col(
        "validation accuracy on task E; empty unless the trial has such a task", "1", default=None
    )
    accuracy_e_test: float | None = col(
        "test accuracy on task E; empty unless the trial has such a task", "1", default=None
    )
    accuracy_f_val: float | None = col(
        "validation accuracy on task F; empty unless the trial has such a task", "1", default=None
    )
    accuracy_f_test: float | None = col(
        "test accuracy on task F; empty unless the trial has such a task", "1", default=None
    )
    accuracy_g_val: float | None = col(
        "validation accuracy on task G; empty unless the trial has such a task", "1", default=None
    )
    accuracy_g_test: float | None = col(
        "test accuracy on task G; empty unless the trial has such a task", "1", default=None
    )
    accuracy_h_val: float | None = col(
        "validation accuracy on task H; empty unless the trial has such a task", "1", default=None
    )
    accuracy_h_test: float | None = col(
        "test accuracy on task H; empty unless the trial has such a task", "1", default=None
    )
    normalised_accuracy_val: float | None = col(
        "mean over tasks of accuracy over that of the task's own child, validation; empty for children of one task",
        "1", default=None,
    )  # fmt: skip
    normalised_accuracy_test: float | None = col("as normalised_accuracy_val, on test", "1", default=None)
    normalised_accuracy_worst_val: float | None = col(
        "as normalised_accuracy_val, the least over tasks", "1", default=None
    )
    normalised_accuracy_worst_test: float | None = col(
        "as normalised_accuracy_test, the least over tasks", "1", default=None
    )


@dataclass(frozen=True)
class HistoryRow:
    """One child after one epoch."""

    digest: str = col("trial")
    member: str = col("child: a or b")
    epoch: int = col("epoch, from 1", "epochs")
    step: int = col("optimizer steps so far", "steps")
    learning_rate: float = col("learning rate of the epoch's last step", "1")
    noise_paper: float | None = col(
        "momentary noise of the epoch's last step, definition `paper`; empty where it is not defined", "1/examples"
    )
    train_loss: float | None = col("mean of the epoch's batch losses", "nat")
    val_loss: float | None = col("validation loss", "nat")
    val_accuracy: float | None = col("validation accuracy", "1")
    batch_size: int | None = col(
        "examples of the epoch's last step; empty where all steps take the trial's", "examples", default=None
    )
    weight_norm: float | None = col("|theta|, Euclidean, of the trained parameters", "parameter norm", default=None)
    clipped_fraction: float | None = col("fraction of the epoch's steps whose gradient was clipped", "1", default=None)
    trace_sigma: float | None = col(
        "tr Sigma measured within the epoch; empty without a measurement", "nat^2/parameter^2", default=None
    )
    trace_sigma_preconditioned: float | None = col("tr(Sigma / v) of Adam-type optimizers", "parameters", default=None)
    gradient_norm2: float | None = col(
        "|G|^2, two-batch estimate, corrected for the finite training set", "nat^2/parameter^2", default=None
    )


@dataclass(frozen=True)
class PlaneRow:
    """One point of the loss plane through theta_0 (0, 0), theta_A (1, 0) and theta_B (0, 1)."""

    digest: str = col("trial")
    config: str = col("configuration of the trial")
    x: float = col("coordinate along theta_A - theta_0", "1")
    y: float = col("coordinate along theta_B - theta_0", "1")
    loss_train: float | None = col("training loss on the landscape's examples", "nat")
    loss_val: float | None = col("validation loss", "nat")


@dataclass(frozen=True)
class RungRow:
    """One trial at a rung: copies of its children after a short anneal, merged at alpha = 1/2."""

    digest: str = col("trial")
    config: str = col("configuration of the trial")
    repeat: int = col("repeat of the trial")
    rung: int = col("number of the rung, from 1")
    step: int = col("optimizer steps of child A so far, without the shortened anneal", "steps")
    steps: int = col("optimizer steps of child A until its end", "steps")
    epoch: int = col("epochs that child A has begun", "epochs")
    merged_loss_val: float | None = col("validation loss of the merge; empty where it is not finite", "nat")
    merged_accuracy_val: float | None = col("validation accuracy of the merge", "1")
    device_seconds: float = col("time on the device so far", "s")
    number: int | None = col("position of the configuration in its sweep", default=None)


@dataclass(frozen=True)
class PairOutput:
    """Output of a trial: row, merge curves, history, weights of the chosen merge, loss plane, rungs."""

    result: TrialResult
    merges: tuple[MergeRow, ...] = ()
    history: tuple[HistoryRow, ...] = ()
    weights: Mapping[str, Any] | None = None  # name -> CPU tensor
    plane: tuple[PlaneRow, ...] = ()
    rungs: tuple[RungRow, ...] = ()
