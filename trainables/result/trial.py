"""TrialResult: the row of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from trainables.noise import NOISE
from trainables.result.columns import LANDSCAPE, SCORES, Column, col, columns_of

SCHEMA_VERSION = 9
PHASES = ("data", "base", "train", "measure", "rungs", "recalibrate", "evaluate", "landscape")
# fitted exponents depend on all rows, so that no row holds them
_NOISES = {name: scale for name, scale in NOISE.items() if scale.kind != "fitted"}


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
    protocol: str = col(
        "how the pair comes about: finetune (from shared base weights), branch (from a trunk), scratch (from own ones)"
    )
    pair_kind: str = col(
        "what differs between the children: same_task (data order and augmentation draws), split_data (also disjoint "
        "halves of the training data), tasks or two_task (the data sets)"
    )
    dataset: str = col("name of the data set; in tasks all names, joined by ` + `")
    model: str = col("name of the model")
    optimizer: str = col("name of the optimizer")
    learning_rate: float = col("learning rate of the stable phase, eta", "1")
    batch_size: int = col("global batch size, B, in images or windows of text", "examples")
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
    proxy: float | None = col(
        "share of the training budget, in a trial of a map with `--proxy`; empty with the full budget",
        "1",
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
    schedule_start: float | None = col(
        "noise eta/B at the start of the stable phase over that of the trial; empty without noise schedule or servo",
        "1",
        default=None,
    )
    schedule_end: float | None = col(
        "noise eta/B at the end of the stable phase over that of the trial; empty without noise schedule or servo, and "
        "in a pruned trial",
        "1",
        default=None,
    )
    schedule_mean: float | None = col(
        "mean of eta/B over the stable phase of child A over that of the trial; empty without a servo, and in a pruned "
        "trial",
        "1",
        default=None,
    )
    servo_off_step: int | None = col(
        "first step at which a child's servo went off near divergence; else empty", "steps", default=None
    )
    child_noise_ratio: float | None = col(
        "learning rate over batch size of child B over that of child A; empty without `child_b`", "1", default=None
    )
    trunk_noise_ratio: float | None = col(
        "learning rate over batch size of the trunk over that of the children; empty unless protocol is branch", "1",
        default=None,
    )  # fmt: skip
    clipped_fraction: float | None = col("fraction of steps whose gradient was clipped", "1", default=None)
    peak_memory_bytes: int | None = col("largest allocation on the GPU; empty on a CPU", "bytes", default=None)
    step_seconds: float | None = col("training time per optimizer step of one child or stack", "s", default=None)
    chosen_coefficients: str | None = col(
        "scale of each child, in order, if the chosen merge is taskwise_arithmetic; else empty", default=None
    )
    chosen_window: int | None = col(
        "last checkpoints that each child averages before the chosen merge, or size of its `ema`; empty without one",
        "checkpoints",
        default=None,
    )  # fmt: skip
    pruned_step: int | None = col("optimizer step at which the trial was pruned; else empty", "steps", default=None)
    tokens_per_example: int | None = col(
        "tokens of a window of text, over which losses are means; empty for images", "tokens", default=None
    )
    bytes_per_token: float | None = col(
        "bytes of validation and test text per token: loss / (bytes_per_token ln 2) is in bits per byte; empty for "
        "images", "bytes", default=None,
    )  # fmt: skip
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


def trial_columns() -> tuple[Column, ...]:
    """Return every column of the trials table, in order."""
    noises = tuple(
        Column(f"noise_{n}", "float", s.unit, f"{s.kind} noise scale {s.formula}, {s.source}")
        for n, s in _NOISES.items()
    )
    seconds = tuple(Column(f"seconds_{p}", "float", "s", f"time spent in phase {p}") for p in PHASES)
    return columns_of(TrialResult) + SCORES + LANDSCAPE + noises + seconds
