"""Start weights of the children: bases and trunks, trained once per digest, cached in memory and in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from trainables.datasets.cache import make_once
from trainables.datasets.dataset import Data
from trainables.models.seeding import seed_generators
from trainables.models.tensors import HOST, non_finite_entries, non_finite_names
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec, stream
from trainables.tasks.batches import epoch_batches, steps_per_epoch
from trainables.tasks.tasks import Task, add_models, join_by_task, split_by_task, task_name
from trainables.training.checkpointing import make_keeper, train_with_pauses
from trainables.training.legs import trunk_leg
from trainables.training.loop import Seeds, Training, make_courses
from trainables.training.members import OptimizerState, make_members
from trainables.training.optimizers import build
from trainables.training.ranks import ranks

_KEEP = 4


@dataclass(frozen=True)
class Trunk:
    """Start of the children in protocol `branch`: weights of `Task.trainee` and optimizer state, on the host."""

    weights: dict[str, Tensor]
    state: OptimizerState
    diverged_at: int | None


_BASES: dict[tuple[Any, ...], list[dict[str, Tensor]]] = {}
_TRUNKS: dict[tuple[Any, ...], Trunk] = {}


def base_weights(spec: PairSpec, tasks: Sequence[Task], runtime: Runtime) -> list[dict[str, Tensor]]:
    """Return theta_0 on the host, one state dict per task; train it only if no cache holds it.

    Args:
        spec: The trial.
        tasks: Tasks with modules and start weights from `add_models`; the modules' weights may be overwritten.
        runtime: The workers of a run share its `bases` folder; a lock lets one of them train.

    Raises:
        ValueError: The base diverged.
    """
    key = tasks[0].cache_key(spec.base_digest)

    def make() -> list[dict[str, Tensor]]:
        if runtime.bases is None:
            return train_base(spec, [t.model for t in tasks], [t.data for t in tasks])
        # imported here, because a trial without shared files needs only torch
        from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

        def write(path: Path) -> None:
            weights = join_by_task(tasks, train_base(spec, [t.model for t in tasks], [t.data for t in tasks]))
            save_file({k: v.contiguous().clone() for k, v in weights.items()}, path)

        path = make_once(Path(runtime.bases) / f"{key}.safetensors", write)
        return split_by_task(tasks, load_file(path))

    return _recall(_BASES, key, runtime, make)


def own_base(spec: PairSpec, child: str, task: Task, runtime: Runtime) -> dict[str, Tensor]:
    """Return the base weights of one child in protocol `scratch`: initial weights of its own, trained as the base is.

    Args:
        spec: The trial; the weights depend on its digest and the child's name.
        child: Name of the child.
        task: Its task; the module's weights are overwritten.
        runtime: Where to train.

    Raises:
        ValueError: The base diverged.
    """
    own = replace(spec, base=replace(spec.base, seed=spec.stream(f"{child}/base") % 2**32))
    fresh = Task(task.name, task.data, task.model)
    add_models(own, [fresh], replace(runtime, device=f"{HOST}"))
    # in the task's module, so that the device holds one
    task.model.load_state_dict(fresh.model.state_dict())
    return train_base(own, [task.model], [task.data])[0]


def trunk(spec: PairSpec, task: Task, runtime: Runtime, report: Report = lambda _: None) -> Trunk:
    """Return the trunk of protocol `branch`, which starts at `task.base`; train it only if no cache holds it.

    Trials with the same `spec.trunk_digest` share it: they differ only after the branch step, as repeats do. Its
    hyperparameters are those of `spec.trunk_spec()`.

    Args:
        spec: The trial.
        task: The task with its base weights; the module's weights are overwritten.
        runtime: As in `base_weights`.
        report: Receives its checkpoints.
    """
    key = task.cache_key(spec.trunk_digest)

    def train() -> Trunk:
        own = spec.trunk_spec()
        seeds = Seeds(stream(spec.trunk_digest, "order"), stream(spec.trunk_digest, "augment"))
        # all repeats share one trunk, with the optimizer state of one child
        training = Training(
            replace(own, stack=1), task.trainee, task.start(task.base), [task.data], [seeds], trunk_leg(own),
            keep_state=True,
        )  # fmt: skip
        (course,) = make_courses(training)
        # ranks write no checkpoints, because none of them holds the state of the others
        keep = make_keeper(
            [spec], runtime if ranks().size == 1 else replace(runtime, checkpoints=None), report, what=".trunk"
        )
        if state := keep.read():
            course.restore(state)
        for steps in train_with_pauses([(course, course.leg.steps)], keep):
            if not course.children:
                keep.note_pause(steps, course.snapshot)
        (child,) = course.children
        assert child.state is not None
        return Trunk(child.weights, child.state, child.diverged_at)

    def make() -> Trunk:
        # ranks train together, so that none may wait for a lock of another
        if runtime.bases is None or ranks().size > 1:
            return train()

        def write(path: Path) -> None:
            made = train()
            # through memory, because torch's writer hides the reason of a failed write
            content = BytesIO()
            torch.save({"weights": made.weights, "state": made.state, "diverged_at": made.diverged_at}, content)
            path.write_bytes(content.getbuffer())

        path = make_once(Path(runtime.bases) / f"{key}.trunk.pt", write)
        return Trunk(**torch.load(path, map_location=HOST, weights_only=True))

    return _recall(_TRUNKS, key, runtime, make)


def _recall(memory: dict[tuple[Any, ...], Any], digest: str, runtime: Runtime, make: Callable[[], Any]) -> Any:
    key = (digest, runtime.device, runtime.threads, runtime.bases)
    if key not in memory:
        made = make()
        while len(memory) >= _KEEP:
            del memory[next(iter(memory))]
        memory[key] = made
    return memory[key]


def train_base(spec: PairSpec, models: Sequence[nn.Module], data: Sequence[Data]) -> list[dict[str, Tensor]]:
    """Train the base weights theta_0 from the models' weights: constant learning rate, no augmentation.

    Several tasks train jointly, with one batch per task in every step, on the parameters that their models share.

    Args:
        spec: Its `base` holds the hyperparameters; only fields that `base_digest` covers matter.
        models: One module per task, with its start weights; trained in place.
        data: One data set per task.

    Returns:
        One state dict per task on the host, after `spec.base.steps` steps.

    Raises:
        ValueError: The base diverged, or its batch is larger than the training set.
    """
    recipe = _base_recipe(spec)
    for task_data in data:
        steps_per_epoch(task_data.examples, recipe.batch_size, "base batch_size")
    constants = [non_finite_entries(m.state_dict()) for m in models]
    members = [make_members(recipe, m, m.state_dict(), 1, distributed=False) for m in models]
    shared = {id(p): p for m in members for p in m.parameters}  # update a shared parameter once
    optimizer = build(list(shared.values()), recipe)
    device = data[0].y["train"].device
    names = ["order", *(f"order/{task_name(i)}" for i in range(1, len(data)))]
    orders = [Generator().manual_seed(stream(spec.base_digest, name)) for name in names]
    unused = Generator(device=device).manual_seed(0)
    endless = [
        chain.from_iterable(epoch_batches(d, recipe, order, unused) for _ in count())
        for d, order in zip(data, orders, strict=True)
    ]
    with seed_generators(stream(spec.base_digest, "dropout"), device):
        for batches in islice(zip(*endless, strict=True), spec.base.steps):
            optimizer.zero_grad(set_to_none=True)
            losses = [m.losses(x[None], y[None]).sum() for m, (x, y) in zip(members, batches, strict=True)]
            torch.stack(losses).sum().backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # no gradients beside the models that are scored
    weights = [m.weights()[0] for m in members]
    if any(non_finite_names(w, c) for w, c in zip(weights, constants, strict=True)):
        rate, steps = spec.base.learning_rate, spec.base.steps
        raise ValueError(f"the base diverged with learning_rate {rate} in {steps} steps; lower it")
    return weights


def _base_recipe(spec: PairSpec) -> PairSpec:
    base = spec.base
    return replace(
        spec,
        learning_rate=base.learning_rate,
        batch_size=base.batch_size,
        momentum=base.momentum if base.optimizer == "sgd" else 0.0,
        weight_decay=base.weight_decay,
        optimizer=base.optimizer,
        beta1=0.9,
        beta2=0.999,
        betas_batch_size=0,
        optimizer_options={},
        clip_norm=0.0,
        compile=False,
        augmentation="none",
        augmentation_strength=0.0,
    )
