"""Tasks that children train on: one, or one per child, with separate heads on a shared backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainables.datasets.dataset import Data
from trainables.datasets.load import load
from trainables.models.adapters import AdaptedModule, adapt
from trainables.models.freezing import freeze
from trainables.models.heads import head_of
from trainables.models.registry import build
from trainables.models.seeding import seed_generators
from trainables.models.tensors import aliases, hold, mount, widen
from trainables.models.weights import load_start
from trainables.runtime import Runtime
from trainables.spec import SEVERAL_TASKS, PairSpec, adapter_settings, stream
from trainables.tasks.batches import halves

Weights = Mapping[str, Tensor]


@dataclass
class Task:
    """A data set and the module that trains on it.

    Attributes:
        name: `a`, `b` and so on if each child has its task, else empty.
        head: Prefix of the keys that a merge leaves to this task; empty if a merge covers all keys.
        base: Base weights theta_0 of `model`, on the host; empty until they are trained.
        batches: Augmented training batches for the BatchNorm re-estimation.
        weights_sha256: SHA-256 of the start weights' file; empty without a file.
        adapted: Module with adapters, if children train these.
    """

    name: str
    data: Data
    model: nn.Module
    head: str = ""
    base: Weights = field(default_factory=lambda: {})
    batches: Sequence[Tensor] = ()
    weights_sha256: str = ""
    adapted: AdaptedModule | None = None

    @property
    def device(self) -> torch.device:
        """Device of the data and the module."""
        return self.data.y["train"].device

    @property
    def trainee(self) -> nn.Module:
        """The module that children train: `model`, or the one with adapters."""
        return self.adapted.module if self.adapted else self.model

    def mount(self, weights: Weights) -> dict[str, Tensor]:
        """Return a state dict of `model` on the device, in the memory of `model`; see `tensors.mount`."""
        return mount(self.model, weights, self.device)

    def start(self, base: Weights) -> Weights:
        """Return the state dict of `trainee` at weights of `model`."""
        return self.adapted.start(base) if self.adapted else base

    def fold(self, weights: Weights) -> dict[str, Tensor]:
        """Return the state dict of `model` that equals one of `trainee`."""
        return self.adapted.fold(weights) if self.adapted else dict(weights)

    def cache_key(self, digest: str) -> str:
        """Return the key for results that depend on the start weights; it changes with the content of their file."""
        return f"{digest}-{self.weights_sha256[:16]}" if self.weights_sha256 else digest

    def is_own(self, key: str) -> bool:
        """Return whether an entry of the state dict belongs to this task alone."""
        return bool(self.head) and key.startswith(self.head)

    def shared(self, weights: Weights) -> dict[str, Tensor]:
        """Return the entries that a merge covers; all names of a tied parameter hold the same tensor."""
        first = aliases(self.model)
        return {k: weights[first.get(k, k)] for k in weights if not self.is_own(k)}

    def whole(self, shared: Weights, own: Weights) -> dict[str, Tensor]:
        """Return `shared` with this task's head from `own`."""
        return {**shared, **{k: v for k, v in own.items() if self.is_own(k)}}


def load_tasks(spec: PairSpec, runtime: Runtime) -> list[Task]:
    """Return the tasks of a trial with their data sets, without models.

    Raises:
        UnknownName: No such data set.
        ValueError: Its files are missing, or the tasks' images differ in shape.
    """
    dtype, several = getattr(torch, spec.dtype), len(spec.tasks) > 1
    tasks = [
        Task(task_name(i) if several else "", load(data, options, runtime, dtype), nn.Identity())
        for i, (data, options) in enumerate(spec.tasks)
    ]
    _check_alike(spec, tasks)
    return tasks


def _check_alike(spec: PairSpec, tasks: Sequence[Task]) -> None:
    names = [name for name, _ in spec.tasks]
    texts = [t.data.context is not None for t in tasks]
    if any(texts) and not all(texts):
        raise ValueError(
            f"tasks must all be text or all be images, got text {names[texts.index(True)]} and images "
            f"{names[texts.index(False)]}; choose another of them"
        )
    if all(texts):
        for what, option, sizes in (
            ("vocabulary", "tokenizer", [t.data.classes for t in tasks]),
            ("context", "context", [t.data.context for t in tasks]),
        ):
            if len(set(sizes)) > 1:
                found = ", ".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
                raise ValueError(
                    f"tasks of text share one model and must have one {what}, got {found} tokens; set their option "
                    f"{option}"
                )
    shapes = [tuple(t.data.x["train"].shape[1:]) for t in tasks]
    if other := next((i for i, shape in enumerate(shapes) if shape != shapes[0]), 0):
        raise ValueError(
            f"tasks share a backbone and must have images of one shape; {spec.tasks[0][0]} has {shapes[0]} "
            f"and {spec.tasks[other][0]} {shapes[other]} (channels, height, width); set their options"
        )


def task_name(index: int) -> str:
    """Return the name of a task and of its child: `a` for the first."""
    return chr(ord("a") + index)


def add_models(spec: PairSpec, tasks: Sequence[Task], runtime: Runtime) -> str | None:
    """Set the module of every task, with start weights that depend on the base digest alone.

    The modules of several tasks share the parameters and buffers outside their heads.

    Returns:
        SHA-256 of the start weights' file or folder; None without one.

    Raises:
        UnknownName: No such model.
        ValueError: Wrong model options, weights that do not fit, freeze patterns that match nothing, no head.
    """
    loaded: str | None = None
    dtype = getattr(torch, spec.dtype)
    for task in tasks:
        with seed_generators(stream(spec.base_digest, f"init/{task.name}" if task.name > "a" else "init")):
            _, channels, *sides = task.data.x["train"].shape  # no sides: vectors
            size = (sides[0], sides[1]) if len(sides) == 2 else 1
            options, pretrained = spec.model_options, spec.weights == "pretrained"
            text = None
            if task.data.context is not None:
                text = {"length": task.data.context, "tokenizer": task.data.tokenizer, "download": runtime.download}
            model = build(spec.model, task.data.classes, channels, size, options, pretrained, text)
            loaded = getattr(model, "weights_sha256", None)
            if spec.base.steps or spec.held_dtype == spec.dtype:
                model = model.to(dtype)  # before the values of the file, so that they keep this precision
            if spec.weights and not pretrained:
                state, loaded = load_start(model, spec.weights, head_of(model, _count_logits(task)))
                model.load_state_dict(state)
        # so that scores do not depend on whether the module has trained in this process
        layout: dict[str, Any] = {"memory_format": torch.channels_last} if runtime.device.startswith("cuda") else {}
        task.model, task.weights_sha256 = model.to(runtime.device, **layout), loaded or ""
        freeze(task.model, spec.freeze)
    if len(tasks) > 1:
        for task in tasks:
            # tasks of text share the tokens, and with them the whole model
            task.head = "" if task.data.context is not None else head_of(task.model, task.data.classes) + "."
        for other in tasks[1:]:
            _tie(tasks[0], other)
    return loaded


def _count_logits(task: Task) -> int | None:
    # the vocabulary of a language model may be larger than that of its tokenizer
    return None if task.data.context is not None else task.data.classes


def add_adapters(spec: PairSpec, tasks: Sequence[Task]) -> None:
    """Add the adapters that children train; the frozen base then has the type `spec.held_dtype`.

    A base with `base.steps` starts from rounded weights, trains in float32, and is rounded again. `Task.base` keeps the
    type of the trial, with the values of the held base.

    Raises:
        ValueError: The package peft is not installed, the targets do not fit, or tasks have heads of their own.
    """
    settings, held = adapter_settings(spec.adapter), getattr(torch, spec.held_dtype)
    for task in tasks if settings else ():
        if task.head:
            raise ValueError("adapter must be empty where tasks have heads of their own, which it would freeze")
        if spec.held_dtype != spec.dtype:
            hold(task.model, held)
            names = dict(task.model.named_parameters(remove_duplicate=False))
            task.base = {k: widen(v.to(held)) if k in names else v for k, v in task.base.items()}
        task.adapted = adapt(task.model, settings, stream(spec.base_digest, "adapter"), _count_logits(task))


def _tie(first: Task, second: Task) -> None:
    if first.head != second.head:
        raise ValueError(f"the tasks' heads must have one name, got {first.head[:-1]!r} and {second.head[:-1]!r}")
    for name, other in aliases(first.model).items():
        if first.is_own(name) != first.is_own(other):
            raise ValueError(f"tasks need separate heads, but {name} and {other} are one parameter of the model")
    for name, parameter in first.model.named_parameters(remove_duplicate=False):
        if not first.is_own(name):
            path, _, leaf = name.rpartition(".")
            second.model.get_submodule(path).register_parameter(leaf, parameter)
    for name, buffer in first.model.named_buffers(remove_duplicate=False):
        if not first.is_own(name):
            path, _, leaf = name.rpartition(".")
            setattr(second.model.get_submodule(path), leaf, buffer)


def children_data(spec: PairSpec, tasks: Sequence[Task]) -> list[Data]:
    """Return the data set that each child trains on, `spec.members` entries."""
    if spec.pair_kind in SEVERAL_TASKS:
        return [t.data for t in tasks]
    data = tasks[0].data
    if spec.pair_kind == "split_data":
        parts = halves(data, stream(spec.base_digest, "halves"))
        return [parts[i % 2] for i in range(spec.members)]
    return [data] * spec.members


def children_tasks(spec: PairSpec, tasks: Sequence[Task]) -> list[Task]:
    """Return the task of each child, `spec.members` entries."""
    return list(tasks) if spec.pair_kind in SEVERAL_TASKS else [tasks[0]] * spec.members


def trained_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that training changes."""
    return [n for n, p in model.named_parameters() if p.requires_grad]


def join_by_task(tasks: Sequence[Task], weights: Iterable[Weights]) -> dict[str, Tensor]:
    """Return the state dicts of all tasks as one; the keys of several tasks get the prefixes `a/`, `b/` and so on."""
    out: dict[str, Tensor] = {}
    for task, own in zip(tasks, weights, strict=True):
        out |= {f"{task.name}/{k}" if task.name else k: v for k, v in own.items()}
    return out


def split_by_task(tasks: Sequence[Task], weights: Weights) -> list[dict[str, Tensor]]:
    """Return the state dict of each task; the inverse of `join_by_task`."""
    if len(tasks) == 1:
        return [dict(weights)]
    return [{k[len(t.name) + 1 :]: v for k, v in weights.items() if k.startswith(t.name + "/")} for t in tasks]
