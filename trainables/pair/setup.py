"""Lab: data, modules, base weights and clock of one stack of trials, and the checks before training."""

from __future__ import annotations

import time
from collections.abc import Generator as Yields
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor, nn

from trainables.datasets.augmentation import check_policy
from trainables.datasets.dataset import Data
from trainables.datasets.load import forget
from trainables.merging.alignment import need_map
from trainables.merging.methods import BY_SCORE, MERGES
from trainables.models.registry import has_batchnorm
from trainables.pair.record import now
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.batches import epoch_batches, steps_per_epoch
from trainables.tasks.evaluation import logits_of
from trainables.tasks.tasks import Task, add_adapters, add_models, children_data, children_tasks, load_tasks
from trainables.training import optimizers
from trainables.training.base import base_weights
from trainables.training.legs import child_leg
from trainables.training.noise_schedules import check_entries
from trainables.training.schedules import SCHEDULES
from trainables.training.steps import check_graphs
from trainables.training.windows import read_window

# batches of the BatchNorm re-estimation: the cumulative average converges long before the end of an epoch of a large
# set. Their size is fixed, so that the error of the statistics does not depend on the trial's batch size. Their values
# are bounded (1 GiB in float32)
RECALIBRATION_BATCH, RECALIBRATION_BATCHES, RECALIBRATION_VALUES = 128, 64, 2**28


@dataclass
class Clock:
    """Seconds by phase; an inner phase pauses the time of the outer one."""

    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=lambda: {})
    _open: list[str] = field(default_factory=lambda: [])
    _since: float = 0.0

    def total(self) -> float:
        """Return the seconds of all phases so far."""
        self._update()
        return sum(self.seconds.values())

    def of(self, name: str) -> float:
        """Return the seconds of one phase so far."""
        self._update()
        return self.seconds.get(name, 0.0)

    def add_seconds(self, seconds: Mapping[str, float], without: float = 0.0) -> None:
        """Add the seconds of an earlier process, minus `without` seconds of `train` that both processes counted."""
        self._update()
        for name, spent in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.seconds["train"] = self.seconds.get("train", 0.0) - without

    @contextmanager
    def phase(self, name: str) -> Yields[None]:
        """Add the time of the block to a phase, synchronised with the device."""
        self._update()
        self._open.append(name)
        try:
            yield
        finally:
            self._update()
            self._open.pop()

    def _update(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


@dataclass
class Lab:
    """Shared parts of the trials of one stack.

    Attributes:
        tasks: One task, or one per child in `tasks`, with modules and base weights.
        data: Data set of each child.
        weights_sha256: SHA-256 of the start weights' file; None without a file.
        probed: Columns of the probe at the base weights; empty without measurements.
        started: Start of the trials, UTC.
    """

    spec: PairSpec
    runtime: Runtime
    tasks: list[Task]
    clock: Clock
    weights_sha256: str | None = None
    probed: Mapping[str, Any] = field(default_factory=lambda: {})
    started: str = field(default_factory=now)

    @cached_property
    def data(self) -> list[Data]:
        """Data set of each child."""
        return children_data(self.spec, self.tasks)

    @property
    def children(self) -> list[Task]:
        """Task of each child."""
        return children_tasks(self.spec, self.tasks)

    def recalibration_batches(self, spec: PairSpec, task: Task, most: int = RECALIBRATION_BATCHES) -> list[Tensor]:
        """Return augmented training batches for the BatchNorm re-estimation; empty for models without BatchNorm."""
        if not has_batchnorm(task.model):
            return []
        role = f"recalibrate/{task.name}" if task.name else "recalibrate"
        order = Generator().manual_seed(spec.stream(f"{role}/order"))
        augment = Generator(device=self.runtime.device).manual_seed(spec.stream(f"{role}/augment"))
        size = min(RECALIBRATION_BATCH, task.data.examples)
        affordable = RECALIBRATION_VALUES // (size * prod(task.data.x["train"].shape[1:]))
        batches = epoch_batches(task.data, replace(spec, batch_size=size), order, augment)
        return [x for x, _ in islice(batches, max(1, min(most, affordable)))]


def prepare(spec: PairSpec, runtime: Runtime, with_base: bool = True) -> Lab:
    """Return the lab of a trial: its data, its modules and, with `with_base`, its base weights.

    Protocol `scratch` shares no base weights: children train their own, and `base_probe` those that it needs.

    Raises:
        UnknownName, ValueError: See `inspect`.
    """
    if spec.source:
        from trainables.pair.plugin import load_source

        load_source(spec.source)
    lab = Lab(spec, runtime, [], Clock(runtime.device))
    with lab.clock.phase("data"):
        lab.tasks = load_tasks(spec, runtime)
    with lab.clock.phase("base"):
        lab.weights_sha256 = add_models(spec, lab.tasks, runtime)
        if with_base and spec.protocol != "scratch":
            for task, weights in zip(lab.tasks, base_weights(spec, lab.tasks, runtime), strict=True):
                task.base = weights
        add_adapters(spec, lab.tasks)
    return lab


def build_model(spec: PairSpec, runtime: Runtime, task: int = 0) -> nn.Module:
    """Return the module of a trial's task, the first by default, with untrained weights; its data set gives its shapes.

    Raises:
        UnknownName, ValueError: See `inspect`.
    """
    lab = prepare(replace(spec.plain(), weights=""), runtime, with_base=False)
    forget()
    return lab.tasks[task].model


def inspect(specs: Sequence[PairSpec], runtime: Runtime) -> int:
    """Check that trials can run, without training, and return N, the training examples of one child of the first trial.

    Raises:
        UnknownName: A name is not registered.
        ValueError: Missing data, wrong options, a missing device, or a batch larger than the training set.
    """
    check_device(runtime.device)
    labs: dict[tuple[str, str, int], Lab] = {}
    for spec in specs:
        key = (spec.base_digest, spec.pair_kind, spec.members)
        if key not in labs:
            labs[key] = prepare(spec, replace(runtime, device="cpu", bases=None), with_base=False)
            for task in labs[key].tasks:
                _check_model(spec, task)
        if any(MERGES[n].moves_units for n in spec.merges if n in MERGES):
            need_map(labs[key].tasks[0].model, spec.model)
        check_names(spec)
        if runtime.device != "auto":
            check_graphs(spec, torch.device(runtime.device))
        _check_fits(spec, labs[key].tasks)
        sets = labs[key].data
        for child, data in zip(spec.child_specs(), sets, strict=True):
            steps_per_epoch(data.examples, child.batch_size)
            steps_per_epoch(data.examples, spec.base.batch_size, "base batch_size")
            steps_per_epoch(data.examples, spec.trunk_spec().batch_size, "trunk.batch_size")
            read_window(spec.window).find_segments(child_leg(child, data.examples).steps)
    first = specs[0]
    examples = labs[first.base_digest, first.pair_kind, first.members].data[0].examples
    forget()
    return examples


def check_names(spec: PairSpec) -> None:
    """Check that augmentation, optimizer, schedule and merges of a trial exist.

    Raises:
        UnknownName: One does not.
        ValueError: The optimizer refuses its options, a merge does not fit the trial, or its steps fit no CUDA graph.
    """
    check_policy(spec.augmentation)
    check_entries(spec.noise_schedule)
    optimizers.check(spec)
    SCHEDULES[spec.schedule]
    check_graphs(spec)
    for name in spec.merges:
        if name not in BY_SCORE and MERGES[name].arity == "pair" and len(spec.tasks) > 2:
            raise ValueError(f"merge {name!r} takes two models, got {len(spec.tasks)} tasks; leave it out of merges")
        if name not in BY_SCORE and MERGES[name].moves_units and len(spec.tasks) > 1:
            raise ValueError(f"merge {name!r} takes models of one task, got {len(spec.tasks)}; leave it out of merges")
    needs_moments(spec)


def needs_moments(spec: PairSpec) -> bool:
    """Return whether a merge of the trial needs the second moments of Adam.

    Raises:
        ValueError: One does, and the children do not train the merged weights by Adam.
    """
    name = next((n for n in spec.merges if n in MERGES and "moments" in MERGES[n].needs), None)
    if name is None:
        return False
    if optimizers.family(spec.optimizer) not in ("adam", "adamw"):
        raise ValueError(
            f"merge {name!r} needs the second moments of adam or adamw, got optimizer {spec.optimizer!r}; leave it out "
            "of merges"
        )
    if spec.adapter:
        raise ValueError(f"merge {name!r} needs children that train the merged weights; leave it out with an adapter")
    return True


def _check_fits(spec: PairSpec, tasks: Sequence[Task]) -> None:
    pictures = [p for p in spec.augmentation.split("+") if p not in ("none", "label_smoothing")]
    for task in tasks:
        if task.data.context is not None and spec.augmentation != "none":
            raise ValueError(f"augmentation must be none for text, got {spec.augmentation!r}, which is for images")
        shape = tuple(task.data.x["train"].shape[1:])
        if pictures and len(shape) != 3:
            raise ValueError(
                f"augmentation {pictures[0]!r} is for images [channels, height, width], got inputs of shape {shape}; "
                "use none or label_smoothing"
            )


def _check_model(spec: PairSpec, task: Task) -> None:
    few = task.data.x["val"][slice(0, 2)]
    tokens = task.data.context is not None
    what = f"tokens [n, {task.data.context}]" if tokens else f"images of shape {tuple(few.shape[1:])}"
    try:
        shape = tuple(logits_of(task.model, task.model.state_dict(), few).shape)
    except (RuntimeError, AssertionError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"model {spec.model!r} does not take {what}: {text}") from None
    if tokens and shape[:-1] == tuple(few.shape) and shape[-1] >= task.data.classes:
        return  # embeddings may be padded
    if shape != (len(few), task.data.classes):
        raise ValueError(f"model {spec.model!r} must map {what} to {task.data.classes} logits each, got shape {shape}")


def check_device(name: str) -> None:
    """Check that this machine has a torch device of this name.

    Raises:
        ValueError: No such device, or no GPU.
    """
    if name == "auto":
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or another device of torch, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} is not available on this machine; use cpu or auto")


def resolve_device(runtime: Runtime) -> Runtime:
    """Return the runtime with the device `auto` replaced by the first GPU, or by the CPU without a GPU."""
    if runtime.device != "auto":
        return runtime
    return replace(runtime, device="cuda" if torch.cuda.is_available() else "cpu")
