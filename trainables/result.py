"""Results of a trial: typed rows whose columns have units and descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from trainables.noise import NOISE

SCHEMA_VERSION = 5
SPLITS = ("train", "val", "test")
PHASES = ("data", "base", "train", "measure", "rungs", "recalibrate", "evaluate", "landscape")
MODELS_SCORED = {
    "a": "child A",
    "b": "child B",
    "merged": "linear merge at alpha = 1/2",
    "chosen": "merge chosen on validation",
    "ensemble": "mean of the children's logits",
}


class Outcome(StrEnum):
    """How a trial ended. Only `ok` can win; rows with other outcomes are kept too."""

    OK = "ok"
    DIVERGED = "diverged"
    NOT_VIABLE = "not_viable"
    OUT_OF_MEMORY = "out_of_memory"
    PRUNED = "pruned"
    FAILED = "failed"


OUTCOMES = {
    Outcome.OK: "The pair was trained and merged.",
    Outcome.DIVERGED: "A loss or a weight is not finite.",
    Outcome.NOT_VIABLE: "A parent's validation accuracy is below `accuracy_floor`.",
    Outcome.OUT_OF_MEMORY: "The device or the machine had no memory left.",
    Outcome.PRUNED: "The trial stopped at a rung.",
    Outcome.FAILED: "An error, a lost process or a lost node; a resume tries it again.",
}
"""Outcome -> its meaning."""

UNSTABLE = frozenset({Outcome.DIVERGED, Outcome.NOT_VIABLE})
"""Outcomes of training that failed because of its hyperparameters."""
NEVER_WINS = UNSTABLE | {Outcome.OUT_OF_MEMORY, Outcome.PRUNED}
"""A configuration with one repeat of these outcomes never wins; `failed` repeats run again."""


@dataclass(frozen=True)
class Column:
    """One column of a table: its name, kind (`str`, `int`, `float`), unit and description."""

    name: str
    kind: str
    unit: str
    doc: str


def col(doc: str, unit: str = "", **kwargs: Any) -> Any:
    """Return a dataclass field that is a column with this description and unit."""
    return field(metadata={"doc": doc, "unit": unit}, **kwargs)


@dataclass(frozen=True)
class TrialResult:
    """One trained and merged pair. Empty (`None`) numbers are undefined, for instance after divergence.

    `scores`, `landscape`, `noises` and `seconds` hold the columns of `SCORES`, `LANDSCAPE`, `noise_<name>` and
    `seconds_<phase>`.
    """

    digest: str = col("16 hex digits that name the trial, SHA-256 of its spec")
    config: str = col("digest of the configuration: that of the spec without `repeat`")
    repeat: int = col("which repeat of its configuration this is")
    seed: int = col("seed of the training randomness")
    outcome: str = col("ok, diverged, not_viable, out_of_memory, pruned or failed; only ok can win")
    outcome_detail: str = col("one sentence on the outcome")
    trainable: str = col(
        "pair (networks were trained), synthetic (a closed form, no real data) or imported (trained elsewhere, from a "
        "table)"
    )
    protocol: str = col("how the pair comes about: finetune (from shared base weights) or branch (from a trunk)")
    pair_kind: str = col(
        "what differs between the children: same_task (data order and augmentation draws), split_data (also disjoint "
        "halves of the training data) or two_task (the data sets)"
    )
    dataset: str = col("name of the data set")
    model: str = col("name of the model")
    optimizer: str = col("name of the optimizer")
    learning_rate: float = col("learning rate of the stable phase, eta", "1")
    batch_size: int = col("global batch size, B", "examples")
    momentum: float = col("momentum coefficient, mu", "1")
    weight_decay: float = col("weight decay as passed to the optimizer, lambda", "1")
    augmentation: str = col("augmentation policy")
    augmentation_strength: float = col("strength of the augmentation policy, 0 to 1", "1")
    epochs: int = col("passes over the training data", "epochs")
    steps: int | None = col("optimizer steps of one child, T", "steps")
    examples: int | None = col("training examples, N", "examples")
    classes: int | None = col("classes of the task", "classes")
    parameters: int | None = col("trainable parameters of one model", "parameters")
    distance: float | None = col("|theta_A - theta_B|, Euclidean", "parameter norm")
    members: int = col("children of the trial", "models")
    task_cosine: float | None = col("cosine of the task vectors tau_A and tau_B", "1")
    norm_a: float | None = col("|theta_A|, Euclidean, of the end weights", "parameter norm")
    norm_b: float | None = col("|theta_B|, Euclidean, of the end weights", "parameter norm")
    wd_relaxation: float | None = col(
        "eta lambda T / (1 - mu), without the (1 - mu) where decay is decoupled (sgdw, adamw): weight decay is inert "
        "below 1; empty for other optimizers", "1",
    )  # fmt: skip
    chosen_merge: str | None = col("merge with the lowest validation loss")
    chosen_coefficient: float | None = col("coefficient of the chosen merge (alpha or s)", "1")
    device: str = col("device the pair was trained on")
    host: str = col("host name")
    threads: int = col("torch threads; they change the numbers")
    stack: int = col("repeats trained together as one stack; 1 means one by one")
    device_seconds: float = col("time on the device, all phases", "s")
    started: str = col("start, UTC, ISO 8601")
    version: str = col("version of sweeper")
    commit: str = col("commit of sweeper; empty outside of a checkout")
    torch: str = col("version of torch")
    python: str = col("version of Python")
    dataset_b: str = col("data set of child B in two_task, else empty")
    branch_step: int = col("steps of the trunk in protocol branch, else 0", "steps")
    precision: str = col("type of the weights, and of the forward pass if it differs, such as float32+bfloat16")
    ranks: int = col("processes that trained each child together")
    warnings: str = col("reasons to doubt the numbers of the row, as `key: sentence`, separated by ` | `")
    spec: str = col("pair spec as JSON; it reruns the trial")
    schema_version: int = col("version of this table", default=SCHEMA_VERSION)
    number: int | None = col("position of the configuration in its sweep", default=None)
    sweep_seed: int | None = col("seed of the sweep", default=None)
    space: str | None = col("search space", default=None)
    sampler: str | None = col("sampler that proposed the configuration", default=None)
    noise_target: float | None = col(
        "noise that the sampler aimed at, in the definition of the sweep",
        default=None,
    )
    stage: str | None = col(
        "stage of the sweep: pilot, map, search, choose or report; empty in sweeps without stages and for extensions",
        default=None,
    )
    weights_sha256: str | None = col("SHA-256 of the file of start weights", default=None)
    cka_val: float | None = col(
        "linear CKA of the children's penultimate features on validation, arXiv 1905.00414", "1", default=None
    )
    trace_sigma: float | None = col(
        "tr of the per-example gradient covariance, mean over children and measurements of the stable phase",
        "nat^2/parameter^2", default=None,
    )  # fmt: skip
    trace_sigma_se: float | None = col("standard error of `trace_sigma`", "nat^2/parameter^2", default=None)
    trace_sigma_preconditioned: float | None = col(
        "tr(Sigma / v), v the second moment of Adam-type optimizers; measured as `trace_sigma`", "parameters",
        default=None,
    )  # fmt: skip
    gradient_norm2: float | None = col(
        "|G|^2 of the full gradient, two-batch estimate over the same measurements, corrected for the finite training "
        "set (not before schema 4); may come out below 0",
        "nat^2/parameter^2", default=None,
    )  # fmt: skip
    b_simple: float | None = col("tr Sigma / |G|^2 over the same measurements, arXiv 1812.06162", "examples",
                                 default=None)  # fmt: skip
    trace_sigma_base: float | None = col(
        "tr Sigma at the base weights under the trial's augmentation (the probe)", "nat^2/parameter^2", default=None
    )
    k_aug: float | None = col("trace_sigma_base over its value without augmentation", "1", default=None)
    augmentation_share: float | None = col("share of trace_sigma_base that comes from augmentation draws", "1",
                                           default=None)  # fmt: skip
    clipped_fraction: float | None = col("fraction of steps whose gradient was clipped", "1", default=None)
    peak_memory_bytes: int | None = col("largest allocation on the GPU; empty on a CPU", "bytes", default=None)
    step_seconds: float | None = col("training time per optimizer step of one child or stack", "s", default=None)
    pruned_step: int | None = col("optimizer step at which the trial was pruned; else empty", "steps", default=None)
    scores: Mapping[str, float | None] = field(default_factory=lambda: {})
    landscape: Mapping[str, float | None] = field(default_factory=lambda: {})
    noises: Mapping[str, float | None] = field(default_factory=lambda: {})
    seconds: Mapping[str, float] = field(default_factory=lambda: {})

    def to_row(self) -> dict[str, Any]:
        """Return the trial as one flat row with exactly the columns of `trial_columns()`."""
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata}
        row |= {c.name: self.scores.get(c.name) for c in SCORES}
        row |= {c.name: self.landscape.get(c.name) for c in LANDSCAPE}
        row |= {f"noise_{name}": self.noises.get(name) for name in _NOISES}
        row |= {f"seconds_{phase}": self.seconds.get(phase, 0.0) for phase in PHASES}
        return row


@dataclass(frozen=True)
class MergeRow:
    """One merge of one pair at one coefficient; a trial has a curve of rows per method."""

    digest: str = col("trial")
    config: str = col("configuration of the trial")
    method: str = col("name of the merge")
    coefficient: float = col("coefficient of the merge: alpha, s, or the number of ingredients of a greedy soup", "1")
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
    accuracy_a_val: float | None = col("validation accuracy on task A; empty unless two_task", "1", default=None)
    accuracy_a_test: float | None = col("test accuracy on task A; empty unless two_task", "1", default=None)
    accuracy_b_val: float | None = col("validation accuracy on task B; empty unless two_task", "1", default=None)
    accuracy_b_test: float | None = col("test accuracy on task B; empty unless two_task", "1", default=None)
    normalised_accuracy_val: float | None = col(
        "mean over tasks of accuracy over that of the task's own child, validation; empty unless two_task", "1",
        default=None,
    )  # fmt: skip
    normalised_accuracy_test: float | None = col(
        "as normalised_accuracy_val, on test; empty unless two_task", "1", default=None
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


def _scores() -> Iterator[Column]:
    for who, text in MODELS_SCORED.items():
        for split in SPLITS:
            yield Column(f"{who}_loss_{split}", "float", "nat", f"cross-entropy of {text} on {split}")
            yield Column(f"{who}_accuracy_{split}", "float", "1", f"accuracy of {text} on {split}")
    for split in SPLITS:
        for kind, text in {"mean": "mean of the parents", "best": "better parent"}.items():
            yield Column(f"gain_{kind}_loss_{split}", "float", "nat", f"loss of the {text} minus merged, {split}")
            yield Column(f"gain_{kind}_accuracy_{split}", "float", "1", f"accuracy merged minus the {text}, {split}")
        for kind, text in {
            "frankle": "max over alpha of L(alpha) - (L_A + L_B)/2, arXiv 1912.05671",
            "entezari": "max over alpha of L(alpha) - ((1 - alpha) L_A + alpha L_B), arXiv 2110.06296",
        }.items():
            yield Column(f"barrier_{kind}_loss_{split}", "float", "nat", f"barrier in loss, {split}: {text}")
            yield Column(f"barrier_{kind}_error_{split}", "float", "1", f"barrier in error, {split}: {text}")

    for who in ("merged", "chosen"):
        for split in ("val", "test"):
            text = f"mean over tasks of the {who} accuracy over that of the task's own child, {split}; only two_task"
            yield Column(f"{who}_normalised_accuracy_{split}", "float", "1", text)


def _landscape() -> Iterator[Column]:
    for point, text in {"a": "child A", "b": "child B", "merged": "the linear merge at alpha = 1/2"}.items():
        loss = "nat/parameter^2"
        yield Column(f"hessian_trace_{point}", "float", loss, f"tr H at {text}, Hutchinson")
        yield Column(f"hessian_trace_se_{point}", "float", loss, f"standard error of tr H at {text}")
        yield Column(f"hessian_trace_scaled_{point}", "float", "nat", f"tr H |w|^2 at {text}, scale-free")
        yield Column(f"lambda_max_{point}", "float", loss, f"largest eigenvalue of the Hessian at {text}, Lanczos")
        yield Column(f"sharpness_worst_{point}", "float", "nat",
                     f"adaptive worst-case sharpness at {text}, arXiv 2302.07011")  # fmt: skip
        yield Column(f"sharpness_average_{point}", "float", "nat",
                     f"average-case sharpness E L(w + sigma |w| eps) - L(w) at {text}")  # fmt: skip
    for end in "ab":
        yield Column(f"curvature_{end}", "float", "nat", f"d'H d at child {end.upper()} with d = theta_B - theta_A")
    yield Column("barrier_quadratic", "float", "nat",
                 "barrier at alpha = 1/2 as second-order expansions from both ends predict it")  # fmt: skip
    yield Column("barrier_excess", "float", "nat", "barrier at alpha = 1/2 minus barrier_quadratic; 0 on quadratics")


SCORES: tuple[Column, ...] = tuple(_scores())
LANDSCAPE: tuple[Column, ...] = tuple(_landscape())
# fitted exponents depend on all rows, so that no row holds them
_NOISES = {name: scale for name, scale in NOISE.items() if scale.kind != "fitted"}
_KINDS = {"str": "str", "int": "int", "float": "float"}


def columns_of(row_type: type[Any]) -> tuple[Column, ...]:
    """Return the columns of a row type."""
    return tuple(
        Column(f.name, _KINDS[str(f.type).split(" ")[0]], f.metadata["unit"], f.metadata["doc"])
        for f in fields(row_type)
        if f.metadata
    )


def trial_columns() -> tuple[Column, ...]:
    """Return every column of the trials table, in order."""
    noises = tuple(
        Column(f"noise_{n}", "float", s.unit, f"{s.kind} noise scale {s.formula}, {s.source}")
        for n, s in _NOISES.items()
    )
    seconds = tuple(Column(f"seconds_{p}", "float", "s", f"time spent in phase {p}") for p in PHASES)
    return columns_of(TrialResult) + SCORES + LANDSCAPE + noises + seconds
