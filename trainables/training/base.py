"""Start weights of the children: bases and trunks, trained once per digest, cached in memory and in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.datasets.cache import make_once
from trainables.models.tensors import HOST
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec, stream
from trainables.tasks.tasks import Task, add_models, join_by_task, split_by_task
from trainables.training.base_training import train_base
from trainables.training.checkpointing import make_keeper, train_with_pauses
from trainables.training.legs import trunk_leg
from trainables.training.loop import Seeds, Training, make_courses
from trainables.training.members import OptimizerState
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
