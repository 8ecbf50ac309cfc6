"""PairSpec: everything that determines the numbers of one trial, as a frozen value with a digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainables.spec.adapter import DESCRIPTION, check_adapter
from trainables.spec.base import BaseSpec
from trainables.spec.digests import digest_of, non_defaults, stream
from trainables.spec.rules import (
    about,
    check_dynamics,
    check_optimizer,
    check_pair,
    coerce,
    dataset_list,
    find_apart,
    name_list,
    read_fields,
)

JSON = Mapping[str, Any]


@dataclass(frozen=True)
class PairSpec:
    """One trial: a pair of models, trained with one set of hyperparameters, and their merges.

    The metadata of each field holds its description.

    Raises:
        ValueError: A field breaks its rule; the message names rule and value.
    """

    dataset: str = field(metadata=about("Name of the data set."))
    model: str = field(metadata=about("Name of the model."))
    learning_rate: float = field(metadata=about("Learning rate of the stable phase."))
    batch_size: int = field(
        metadata=about("Examples per optimizer step, over all processes of a child: images, or windows of text.")
    )
    momentum: float = field(default=0.0, metadata=about("Momentum coefficient of SGD-type optimizers, in [0, 1)."))
    weight_decay: float = field(default=0.0, metadata=about("Weight decay as passed to the optimizer."))
    augmentation: str = field(
        default="none",
        metadata=about("Augmentation policy: one name, or several joined by `+` and applied from left to right."),
    )
    augmentation_strength: float = field(
        default=0.0, metadata=about("Strength of the augmentation policy, in [0, 1]; 0 changes nothing.")
    )
    epochs: int = field(
        default=8, metadata=about("Passes of each child over its training data; counts where `steps` is 0.")
    )
    steps: int = field(default=0, metadata=about("Optimizer steps of each child; 0 leaves the budget to `epochs`."))
    optimizer: str = field(default="sgd", metadata=about("Optimizer: `sgd`, `adamw`, or any name of `timm.optim`."))
    beta1: float = field(default=0.9, metadata=about("Decay rate of the first moment of Adam-type optimizers."))
    beta2: float = field(default=0.999, metadata=about("Decay rate of the second moment of Adam-type optimizers."))
    betas_batch_size: int = field(
        default=0,
        metadata=about(
            "Batch size at which `beta1`, `beta2` and `optimizer_options.eps` hold. At others 1 - beta grows as the "
            "batch and eps falls as its square root; 0 keeps them."
        ),
    )
    optimizer_options: JSON = field(
        default_factory=lambda: {}, metadata=about("Further arguments of the optimizer, such as `nesterov`.")
    )
    clip_norm: float = field(
        default=0.0, metadata=about("Global norm to which gradients are clipped; 0 does not clip.")
    )
    schedule: str = field(
        default="wsd", metadata=about("Learning-rate schedule: `wsd` (warmup, stable, decay), `constant` or `cosine`.")
    )
    warmup: float = field(
        default=0.05,
        metadata=about("Fraction of the steps spent warming up; in protocol `branch`, of the trunk's steps."),
    )
    decay: float = field(default=0.2, metadata=about("Fraction of a child's steps spent decaying, in schedule `wsd`."))
    noise_schedule: JSON = field(
        default_factory=lambda: {},
        metadata=about(
            "Course of the noise over the stable phase: `kind` (flat, linear, cosine, step), `start`, `end`, and the "
            "`turn` of a step. The learning rate follows it, with `by: batch_size` the batch size at equal examples. "
            "Its mean over the phase is 1, so that only the ratio of start and end counts, and the trial's noise is "
            "the mean."
        ),
    )
    servo: JSON = field(
        default_factory=lambda: {},
        metadata=about(
            "Holds a child's measured noise η·tr Σ/(B(1−μ)) over the stable phase at its first value, times "
            "`noise_schedule`. After every `every` steps it corrects the learning rate by tr Σ of the last gradients. "
            "`limit` bounds the factor (default 4), `smoothing` is the weight of a new measurement (default .5)."
        ),
    )
    pairing: str = field(
        default="independent",
        metadata=about(
            "Batches of the children: `independent` orders, or `antithetic` halves of the same super-batches, first "
            "one's own half of all, then the other's."
        ),
    )
    child_b: JSON = field(
        default_factory=lambda: {},
        metadata=about("Fields in which child B differs: `learning_rate`, `batch_size`. Noises are those of child A."),
    )
    window: JSON = field(
        default_factory=lambda: {},
        metadata=about(
            "Each child averages its last checkpoints, and every merge is scored with these averages, too: `size`, "
            "one number of checkpoints or several, `spacing` in steps (default 1), and `kind`: `mean` (default), or "
            "`ema`, the exponential moving average with the same mean age."
        ),
    )
    protocol: str = field(
        default="finetune",
        metadata=about(
            "How children start: `finetune` from shared base weights; `branch` from a trunk trained with the "
            "trial's own stable hyperparameters, or those of `trunk`; `scratch` from base weights of their own, which "
            "`base` trains from other initial weights for every child and repeat."
        ),
    )
    branch_step: int = field(default=0, metadata=about("Steps of the trunk in protocol `branch`."))
    trunk: JSON = field(
        default_factory=lambda: {},
        metadata=about(
            "Fields in which the trunk of protocol `branch` differs from the children: `learning_rate`, `batch_size`. "
            "Noises are those of the children. Trials with one trunk and other children share it."
        ),
    )
    pair_kind: str = field(
        default="same_task",
        metadata=about(
            "What differs between children: `same_task` data order and augmentation draws, `split_data` also the "
            "half of the training data, `tasks` the data set and the head. `two_task` names `tasks` of two data sets."
        ),
    )
    dataset_b: str = field(default="", metadata=about("Data set of child B in `two_task`."))
    dataset_b_options: JSON = field(default_factory=lambda: {}, metadata=about("Options of the data set of child B."))
    datasets: tuple[JSON, ...] = field(
        default=(),
        metadata=about(
            "Data sets of `tasks`, two to eight, one per child: names, or mappings with `name` and `options`."
        ),
    )
    members: int = field(
        default=2,
        metadata=about(
            "Number of children. Merges of a pair take the first two; soups and task vectors take all. In `tasks` it "
            "is the number of data sets."
        ),
    )
    merges: tuple[str, ...] = field(
        default=("linear", "task_arithmetic"),
        metadata=about("Names of the merges to evaluate; `linear` must be one of them."),
    )
    base: BaseSpec = field(default_factory=BaseSpec, metadata=about("Training of the shared base weights."))
    dataset_options: JSON = field(default_factory=lambda: {}, metadata=about("Options of the data set."))
    model_options: JSON = field(default_factory=lambda: {}, metadata=about("Options of the model."))
    weights: str = field(
        default="",
        metadata=about("Start weights: a file (safetensors or torch), or `pretrained` for the library's own."),
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata=about("Patterns of parameter names that are not trained; `*` matches anything.")
    )
    adapter: JSON = field(default_factory=lambda: {}, metadata=about(DESCRIPTION))
    source: str = field(
        default="",
        metadata=about("Text of a Python file that registers more models or data sets; a space file fills it."),
    )
    trainable: str = field(
        default="pair",
        metadata=about(
            "What runs the trial: `pair` trains networks, `synthetic` is a closed form for tests, `imported` was "
            "trained elsewhere and cannot be run."
        ),
    )
    accuracy_floor: float = field(
        default=0.0,
        metadata=about("Validation accuracy that every parent must reach; below it the pair is not viable."),
    )
    loss_ceiling: float = field(
        default=0.0,
        metadata=about(
            "Validation loss that every parent must stay below; above it the pair is not viable. 0 sets no limit."
        ),
    )
    dtype: str = field(default="float32", metadata=about("Type of weights and data: `float32` or `float64`."))
    autocast: str = field(
        default="",
        metadata=about("`bfloat16` computes forward passes in bfloat16; weights and landscape keep `dtype`."),
    )
    compile: bool = field(default=False, metadata=about("Whether the training step goes through `torch.compile`."))
    graphs: str = field(
        default="off",
        metadata=about(
            "Whether a GPU replays the recorded training step as one CUDA graph: `auto` where it can, `on` or refuse, "
            "`off`. Numbers differ by rounding."
        ),
    )
    stack: int = field(default=1, metadata=about("Repeats trained together as one stack; 1 trains them one by one."))
    seed: int = field(default=0, metadata=about("Seed of the training randomness."))
    repeat: int = field(default=0, metadata=about("Which repeat of its configuration the trial is."))

    def __post_init__(self) -> None:
        coerce(self)
        check_optimizer(self)
        object.__setattr__(self, "merges", name_list("merges", self.merges))
        object.__setattr__(self, "freeze", name_list("freeze", self.freeze))
        if not isinstance(self.base, BaseSpec):  # pyright: ignore[reportUnnecessaryIsInstance] - read from JSON
            object.__setattr__(self, "base", read_fields(BaseSpec, "base", self.base))
        object.__setattr__(self, "datasets", dataset_list(self.datasets))
        if self.pair_kind == "tasks" and self.members == PairSpec.members:
            object.__setattr__(self, "members", max(PairSpec.members, len(self.datasets)))
        check_pair(self)
        check_dynamics(self)
        check_adapter(self)

    @property
    def tasks(self) -> tuple[tuple[str, JSON], ...]:
        """Name and options of each task's data set: one, or one per child in `tasks` and `two_task`."""
        if self.pair_kind == "tasks":
            return tuple((d["name"], d.get("options", {})) for d in self.datasets)
        first = (self.dataset, self.dataset_options)
        return (first, (self.dataset_b, self.dataset_b_options)) if self.dataset_b else (first,)

    @property
    def is_language_model(self) -> bool:
        """Whether the model is one of transformers, whose weights a folder for `from_pretrained` holds."""
        return self.trainable == "pair" and (self.model == "gpt" or self.model.startswith("hf:"))

    @property
    def held_dtype(self) -> str:
        """Type of the frozen base under adapters: `dtype`, or `bfloat16` by the option `dtype` of a language model."""
        return "bfloat16" if self.is_language_model and self.model_options.get("dtype") == "bfloat16" else self.dtype

    def plain(self) -> PairSpec:
        """Return the spec with whole models of type `dtype` in place of adapters on a held base."""
        options = self.model_options
        if self.held_dtype != self.dtype:
            options = {k: v for k, v in options.items() if k != "dtype"}
        return replace(self, adapter={}, model_options=options)

    def _identity(self) -> dict[str, Any]:
        return {**non_defaults(self), "base": non_defaults(self.base)}

    @property
    def betas(self) -> tuple[float, float]:
        """Decay rates of Adam's moments at this batch size: 1 - beta grows as B where `betas_batch_size` is set.

        Source: Malladi et al. 2022, arXiv 2205.10287, definition 5.2 (square root scaling rule).
        """
        share = self.batch_size / self.betas_batch_size if self.betas_batch_size else 1.0
        if share == 1.0:
            return self.beta1, self.beta2
        return 1 - share * (1 - self.beta1), 1 - share * (1 - self.beta2)

    @property
    def digest(self) -> str:
        """Digest of this trial, 16 hex digits; equal specs have equal digests in every process."""
        return digest_of(self._identity())

    @property
    def config(self) -> str:
        """Digest of the spec without `repeat`, which the repeats of a configuration share."""
        return digest_of({k: v for k, v in self._identity().items() if k != "repeat"})

    @property
    def base_digest(self) -> str:
        """Digest of the fields that determine the base weights; trials with the same one share a base."""
        return digest_of({k: v for k, v in self._identity().items() if k in _BASE_FIELDS})

    @property
    def trunk_digest(self) -> str:
        """Digest of the fields that act before the branch step and determine the trunk of protocol `branch`.

        Trials with the same one share a trunk, as repeats do.
        """
        return digest_of({k: v for k, v in self.trunk_spec()._identity().items() if k not in _AFTER_BRANCH})

    def stream(self, role: str) -> int:
        """Return the seed of the random stream `role` of this trial."""
        return stream(self.digest, role)

    def child_specs(self) -> list[PairSpec]:
        """Return the hyperparameters of each child, `members` entries; only `child_b` can make them differ."""
        first: PairSpec = replace(self, child_b={})
        return [first, *(replace(first, **dict(self.child_b)) for _ in range(self.members - 1))]

    def trunk_spec(self) -> PairSpec:
        """Return the hyperparameters of the trunk; only `trunk` can make them differ from those of the children."""
        return replace(self, trunk={}, **dict(self.trunk)) if self.trunk else self

    @property
    def apart(self) -> str:
        """Why repeats cannot train as one stack, such as `with a servo`; empty if they can."""
        return find_apart(self)

    def stack_mates(self) -> list[PairSpec]:
        """Return the specs of the stack that contains this one, in order of repeat."""
        first = self.repeat - self.repeat % self.stack
        mates = (replace(self, repeat=first + i) for i in range(self.stack))
        return list(mates)

    def to_json(self) -> str:
        """Return the spec as JSON for `from_json`."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PairSpec:
        """Return the spec that `to_json` wrote.

        Raises:
            ValueError: The text is not JSON, has an unknown field, or a field breaks its rule.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a pair spec must be JSON: {error}") from None
        return cls.from_mapping(data)

    @classmethod
    def from_mapping(cls, data: JSON) -> PairSpec:
        """Return the spec with these fields.

        Raises:
            ValueError: A field is unknown or missing, or breaks its rule.
        """
        if isinstance(data, Mapping) and (data.get("datasets") or data.get("pair_kind") == "tasks"):  # pyright: ignore[reportUnnecessaryIsInstance] - JSON
            data = {"dataset": "", **data}
        return read_fields(cls, "pair spec", data)


_BASE_FIELDS = (
    "dataset", "dataset_options", "dataset_b", "dataset_b_options", "datasets", "model", "model_options", "weights",
    "freeze", "source", "dtype", "autocast", "base",
)  # fmt: skip
_AFTER_BRANCH = (
    "epochs", "steps", "schedule", "decay", "merges", "members", "trainable", "accuracy_floor", "loss_ceiling", "stack",
    "repeat", "noise_schedule", "pairing", "child_b", "window",
    "servo",
)  # fmt: skip
