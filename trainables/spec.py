"""PairSpec: everything that determines the numbers of one trial, as a frozen value with a digest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

JSON = Mapping[str, Any]
S = TypeVar("S", bound="BaseSpec | PairSpec")
MOST_MEMBERS, MOST_MERGES, MOST_STEPS = 1000, 64, 1_000_000_000
"""Bounds of a trial, which catch mistakes and protect the machine. A service has lower ones."""
OF_OTHERS = frozenset({"channels", "classes", "pretrained", "weights"})
"""Arguments of a model's builder that other fields of a trial set."""


def _about(description: str) -> dict[str, str]:
    return {"description": description}


def digest_of(value: object) -> str:
    """Return 16 hex digits of SHA-256 over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stream(digest: str, role: str) -> int:
    """Return the 63-bit seed of the generator for `role` in the trial `digest`."""
    return int.from_bytes(hashlib.sha256(f"{digest}/{role}".encode()).digest()[:8], "big") >> 1


def _non_defaults(value: Any) -> dict[str, Any]:
    # without fields at their default, so that a new field changes no digest
    out: dict[str, Any] = {}
    for f in fields(value):
        now, default = getattr(value, f.name), _default(f)
        if default is MISSING or now != default:
            out[f.name] = list(cast(tuple[Any, ...], now)) if isinstance(now, tuple) else now
    return out


def _default(f: Field[Any]) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _coerce(value: Any) -> None:
    for f in fields(value):
        now = getattr(value, f.name)
        if f.type == "float":
            object.__setattr__(value, f.name, _number(f.name, now))
        elif f.type == "int":
            if isinstance(now, bool) or int(_number(f.name, now)) != now:
                raise ValueError(f"{f.name} must be a whole number, got {now!r}")
            object.__setattr__(value, f.name, int(now))
        elif f.type == "bool" and not isinstance(now, bool):
            raise ValueError(f"{f.name} must be true or false, got {now!r}")
        elif f.type == "str" and not isinstance(now, str):
            raise ValueError(f"{f.name} must be text, got {now!r}")


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def _check(name: str, value: float | str, rule: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name} must {rule}, got {value!r}")


def _check_optimizer(spec: BaseSpec | PairSpec) -> None:
    _check("learning_rate", spec.learning_rate, "be > 0", spec.learning_rate > 0)
    _check("batch_size", spec.batch_size, "be >= 1", spec.batch_size >= 1)
    _check("momentum", spec.momentum, "lie in [0, 1)", 0 <= spec.momentum < 1)
    _check("weight_decay", spec.weight_decay, "be >= 0", spec.weight_decay >= 0)


def _check_json(name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must hold JSON values only, got {value!r}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, got {value!r}")


def _names(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in cast(list[Any], value)):
        raise ValueError(f"{name} must be a list of names, got {value!r}")
    return tuple(cast(list[str], value))


def _read(kind: type[S], what: str, data: Any) -> S:
    if not isinstance(data, Mapping):
        raise ValueError(f"a {what} must be a mapping of fields, got {data!r}")
    data = cast(Mapping[str, Any], data)
    names = {f.name: _default(f) is MISSING for f in fields(kind)}
    if wrong := sorted(str(name) for name in set(data) - set(names)):
        from trainables.registry import unknown

        raise ValueError(str(unknown(f"{what} field", wrong[0], names)))
    if missing := [name for name, needed in names.items() if needed and name not in data]:
        raise ValueError(f"a {what} must have {', '.join(missing)}; got only {', '.join(sorted(data)) or 'nothing'}")
    return kind(**data)


@dataclass(frozen=True)
class BaseSpec:
    """Training of the shared base weights theta_0: `steps` of plain SGD from the initial or the loaded weights.

    In protocol `branch` they are the start of the trunk. With 0 steps they are the initial or the loaded weights.

    Raises:
        ValueError: A field breaks its rule.
    """

    steps: int = field(default=60, metadata=_about("Optimizer steps; 0 keeps the initial or the loaded weights."))
    learning_rate: float = field(default=0.02, metadata=_about("Constant learning rate."))
    batch_size: int = field(default=32, metadata=_about("Batch size, in examples."))
    momentum: float = field(default=0.9, metadata=_about("Momentum coefficient, in [0, 1)."))
    weight_decay: float = field(default=0.0, metadata=_about("Weight decay."))
    seed: int = field(default=0, metadata=_about("Seed of the base weights."))

    def __post_init__(self) -> None:
        _coerce(self)
        _check("base steps", self.steps, "be >= 0", self.steps >= 0)
        _check("base steps", self.steps, f"be at most {MOST_STEPS}", self.steps <= MOST_STEPS)
        _check_optimizer(self)


@dataclass(frozen=True)
class PairSpec:
    """One trial: a pair of models, trained with one set of hyperparameters, and their merges.

    The metadata of each field holds its description.

    Raises:
        ValueError: A field breaks its rule; the message names rule and value.
    """

    dataset: str = field(metadata=_about("Name of the data set."))
    model: str = field(metadata=_about("Name of the model."))
    learning_rate: float = field(metadata=_about("Learning rate of the stable phase."))
    batch_size: int = field(metadata=_about("Examples per optimizer step, over all processes of a child."))
    momentum: float = field(default=0.0, metadata=_about("Momentum coefficient of SGD-type optimizers, in [0, 1)."))
    weight_decay: float = field(default=0.0, metadata=_about("Weight decay as passed to the optimizer."))
    augmentation: str = field(
        default="none",
        metadata=_about("Augmentation policy: one name, or several joined by `+` and applied from left to right."),
    )
    augmentation_strength: float = field(
        default=0.0, metadata=_about("Strength of the augmentation policy, in [0, 1]; 0 changes nothing.")
    )
    epochs: int = field(
        default=8, metadata=_about("Passes of each child over its training data; counts where `steps` is 0.")
    )
    steps: int = field(default=0, metadata=_about("Optimizer steps of each child; 0 leaves the budget to `epochs`."))
    optimizer: str = field(default="sgd", metadata=_about("Optimizer: `sgd`, `adamw`, or any name of `timm.optim`."))
    beta1: float = field(default=0.9, metadata=_about("Decay rate of the first moment of Adam-type optimizers."))
    beta2: float = field(default=0.999, metadata=_about("Decay rate of the second moment of Adam-type optimizers."))
    optimizer_options: JSON = field(
        default_factory=lambda: {}, metadata=_about("Further arguments of the optimizer, such as `nesterov`.")
    )
    clip_norm: float = field(
        default=0.0, metadata=_about("Global norm to which gradients are clipped; 0 does not clip.")
    )
    schedule: str = field(
        default="wsd", metadata=_about("Learning-rate schedule: `wsd` (warmup, stable, decay), `constant` or `cosine`.")
    )
    warmup: float = field(
        default=0.05,
        metadata=_about("Fraction of the steps spent warming up; in protocol `branch`, of the trunk's steps."),
    )
    decay: float = field(default=0.2, metadata=_about("Fraction of a child's steps spent decaying, in schedule `wsd`."))
    protocol: str = field(
        default="finetune",
        metadata=_about(
            "How children start: `finetune` from shared base weights; `branch` from a trunk trained with the "
            "trial's own stable hyperparameters."
        ),
    )
    branch_step: int = field(default=0, metadata=_about("Steps of the trunk in protocol `branch`."))
    pair_kind: str = field(
        default="same_task",
        metadata=_about(
            "What differs between children: `same_task` data order and augmentation draws, `split_data` also the "
            "half of the training data, `two_task` the data set and the head."
        ),
    )
    dataset_b: str = field(default="", metadata=_about("Data set of child B in `two_task`."))
    dataset_b_options: JSON = field(default_factory=lambda: {}, metadata=_about("Options of the data set of child B."))
    members: int = field(
        default=2,
        metadata=_about("Number of children. Merges of a pair take the first two; soups and task vectors take all."),
    )
    merges: tuple[str, ...] = field(
        default=("linear", "task_arithmetic"),
        metadata=_about("Names of the merges to evaluate; `linear` must be one of them."),
    )
    base: BaseSpec = field(default_factory=BaseSpec, metadata=_about("Training of the shared base weights."))
    dataset_options: JSON = field(default_factory=lambda: {}, metadata=_about("Options of the data set."))
    model_options: JSON = field(default_factory=lambda: {}, metadata=_about("Options of the model."))
    weights: str = field(
        default="",
        metadata=_about("Start weights: a file (safetensors or torch), or `pretrained` for the library's own."),
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata=_about("Patterns of parameter names that are not trained; `*` matches anything.")
    )
    source: str = field(
        default="",
        metadata=_about("Text of a Python file that registers more models or data sets; a space file fills it."),
    )
    trainable: str = field(
        default="pair",
        metadata=_about(
            "What runs the trial: `pair` trains networks, `synthetic` is a closed form for tests, `imported` was "
            "trained elsewhere and cannot be run."
        ),
    )
    accuracy_floor: float = field(
        default=0.0,
        metadata=_about("Validation accuracy that every parent must reach; below it the pair is not viable."),
    )
    dtype: str = field(default="float32", metadata=_about("Type of weights and data: `float32` or `float64`."))
    autocast: str = field(
        default="",
        metadata=_about("`bfloat16` computes forward passes in bfloat16; weights and landscape keep `dtype`."),
    )
    compile: bool = field(default=False, metadata=_about("Whether the training step goes through `torch.compile`."))
    stack: int = field(default=1, metadata=_about("Repeats trained together as one stack; 1 trains them one by one."))
    seed: int = field(default=0, metadata=_about("Seed of the training randomness."))
    repeat: int = field(default=0, metadata=_about("Which repeat of its configuration the trial is."))

    def __post_init__(self) -> None:
        _coerce(self)
        _check_optimizer(self)
        object.__setattr__(self, "merges", _names("merges", self.merges))
        object.__setattr__(self, "freeze", _names("freeze", self.freeze))
        if not isinstance(self.base, BaseSpec):  # pyright: ignore[reportUnnecessaryIsInstance] - read from JSON
            object.__setattr__(self, "base", _read(BaseSpec, "base", self.base))
        for name in ("dataset_options", "dataset_b_options", "model_options", "optimizer_options"):
            _check_json(name, getattr(self, name))
        if reserved := sorted(OF_OTHERS & set(self.model_options)):
            raise ValueError(
                f"model_options must not have {', '.join(sorted(OF_OTHERS))}, got {reserved[0]!r}: the data set gives "
                "classes and channels, `weights: pretrained` the start weights"
            )
        strength = self.augmentation_strength
        _check("augmentation_strength", strength, "lie in [0, 1]", 0 <= strength <= 1)
        _check("epochs", self.epochs, "be >= 1", self.epochs >= 1)
        _check("steps", self.steps, "be >= 0", self.steps >= 0)
        for name in ("beta1", "beta2"):
            _check(name, getattr(self, name), "lie in [0, 1)", 0 <= getattr(self, name) < 1)
        _check("clip_norm", self.clip_norm, "be >= 0", self.clip_norm >= 0)
        _check("members", self.members, "be >= 2", self.members >= 2)
        _check("members", self.members, f"be at most {MOST_MEMBERS}", self.members <= MOST_MEMBERS)
        _check("merges", len(self.merges), f"name at most {MOST_MERGES} merges", len(self.merges) <= MOST_MERGES)
        for name in ("epochs", "steps", "branch_step"):
            _check(name, getattr(self, name), f"be at most {MOST_STEPS}", getattr(self, name) <= MOST_STEPS)
        _check("warmup", self.warmup, "lie in [0, 1]", 0 <= self.warmup <= 1)
        # a sum, because 1 - 0.8 < 0.2 in floating point
        fits = self.decay >= 0 and self.warmup + self.decay <= 1
        _check("decay", self.decay, "lie in [0, 1 - warmup]", fits)
        _check("accuracy_floor", self.accuracy_floor, "lie in [0, 1]", 0 <= self.accuracy_floor <= 1)
        _check("stack", self.stack, "be >= 1", self.stack >= 1)
        _check("repeat", self.repeat, "be >= 0", self.repeat >= 0)
        if "linear" not in self.merges:
            raise ValueError(f"merges must contain 'linear', which defines the gains, got {list(self.merges)}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(filter(None, known))}, got {getattr(self, name)!r}")
        if self.autocast and self.dtype != "float32":
            raise ValueError(f"autocast must be empty unless dtype is float32, got {self.autocast!r} with {self.dtype}")
        self._check_protocol()

    def _check_protocol(self) -> None:
        if self.protocol == "branch":
            _check("branch_step", self.branch_step, "be >= 1 in protocol branch", self.branch_step >= 1)
        else:
            rule = "be 0 unless protocol is branch"
            _check("branch_step", self.branch_step, rule, self.branch_step == 0)
        if self.pair_kind == "two_task":
            _check(
                "dataset_b",
                self.dataset_b,
                "name the data set of the second task in pair_kind two_task",
                bool(self.dataset_b),
            )
            _check("members", self.members, "be 2 in pair_kind two_task", self.members == 2)
            _check("protocol", self.protocol, "be finetune in pair_kind two_task", self.protocol == "finetune")
        else:
            _check("dataset_b", self.dataset_b, "be empty unless pair_kind is two_task", not self.dataset_b)

    def _identity(self) -> dict[str, Any]:
        return {**_non_defaults(self), "base": _non_defaults(self.base)}

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
        return digest_of({k: v for k, v in self._identity().items() if k not in _AFTER_BRANCH})

    def stream(self, role: str) -> int:
        """Return the seed of the random stream `role` of this trial."""
        return stream(self.digest, role)

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
        return _read(cls, "pair spec", data)


_BASE_FIELDS = (
    "dataset", "dataset_options", "dataset_b", "dataset_b_options", "model", "model_options", "weights", "freeze",
    "source", "dtype", "autocast", "base",
)  # fmt: skip
_AFTER_BRANCH = (
    "epochs", "steps", "schedule", "decay", "merges", "members", "trainable", "accuracy_floor", "stack", "repeat",
)  # fmt: skip
_CHOICES = {
    "protocol": ("finetune", "branch"),
    "pair_kind": ("same_task", "split_data", "two_task"),
    "dtype": ("float32", "float64"),
    "autocast": ("", "bfloat16"),
}
