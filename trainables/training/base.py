"""Start weights of the children: bases and trunks, made once per digest, shared in memory and as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.datasets.cache import made_once
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec, stream
from trainables.tasks.tasks import Task, joined, parted
from trainables.training.base_training import train_base
from trainables.training.checkpointing import keeper, strides
from trainables.training.loop import Seeds, Training, make_courses, trunk_leg
from trainables.training.members import OptimizerState
from trainables.training.ranks import ranks

_KEEP = 4


@dataclass(frozen=True)
class Trunk:
    """Where the children of protocol `branch` start: weights and optimizer state at the branch step."""

    weights: dict[str, Tensor]
    state: OptimizerState
    diverged_at: int | None


_BASES: dict[tuple[Any, ...], list[dict[str, Tensor]]] = {}
_TRUNKS: dict[tuple[Any, ...], Trunk] = {}


def base_weights(spec: PairSpec, tasks: Sequence[Task], runtime: Runtime) -> list[dict[str, Tensor]]:
    """Return theta_0 as one state dict per task; trains it only where neither memory nor `runtime.bases` holds it.

    Args:
        spec: The trial.
        tasks: With their modules and start weights from `add_models`; modules may be overwritten.
        runtime: Its `bases` folder is shared by the workers of a run; a lock lets one of them train.

    Raises:
        ValueError: The base diverged.
    """
    kept = tasks[0].kept_as(spec.base_digest)

    def make() -> list[dict[str, Tensor]]:
        if runtime.bases is None:
            return train_base(spec, [t.model for t in tasks], [t.data for t in tasks])
        # imported here: a trial that shares no files needs torch alone
        from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]

        def write(path: Path) -> None:
            weights = joined(tasks, train_base(spec, [t.model for t in tasks], [t.data for t in tasks]))
            save_file({k: v.cpu().contiguous().clone() for k, v in weights.items()}, path)

        path = made_once(Path(runtime.bases) / f"{kept}.safetensors", write)
        return parted(tasks, load_file(path, device=runtime.device))

    return _remembered(_BASES, kept, runtime, make)


def trunk(spec: PairSpec, task: Task, runtime: Runtime, report: Report = lambda _: None) -> Trunk:
    """Return the trunk of protocol `branch`, from `task.base`; trains it only where it is not held already.

    It belongs to `spec.trunk_digest`: trials that differ only after the branch step share it, repeats among them.

    Args:
        spec: The trial.
        task: The task, with its base weights; its module is overwritten.
        runtime: As in `base_weights`.
        report: Told of its checkpoints.
    """
    kept = task.kept_as(spec.trunk_digest)

    def train() -> Trunk:
        seeds = Seeds(stream(spec.trunk_digest, "order"), stream(spec.trunk_digest, "augment"))
        # one trunk for all repeats: its optimizer state is that of one child
        training = Training(
            replace(spec, stack=1), task.model, task.base, [task.data], [seeds], trunk_leg(spec), keep_state=True
        )  # fmt: skip
        (course,) = make_courses(training)
        # ranks train it together, each for itself: nobody gathers what they hold
        keep = keeper(
            [spec], runtime if ranks().size == 1 else replace(runtime, checkpoints=None), report, what=".trunk"
        )
        if found := keep.read():
            course.restore(found)
        for steps in strides([(course, course.leg.steps)], keep):
            if not course.children:
                keep.paused(steps, course.snapshot)
        (child,) = course.children
        assert child.state is not None
        return Trunk(child.weights, child.state, child.diverged_at)

    def make() -> Trunk:
        # ranks train together: none of them may wait for a lock that another holds
        if runtime.bases is None or ranks().size > 1:
            return train()

        def write(path: Path) -> None:
            made = train()
            # through memory: torch's own writer hides why a file cannot be written
            content = BytesIO()
            torch.save({"weights": made.weights, "state": made.state, "diverged_at": made.diverged_at}, content)
            path.write_bytes(content.getbuffer())

        path = made_once(Path(runtime.bases) / f"{kept}.trunk.pt", write)
        return Trunk(**torch.load(path, map_location=runtime.device, weights_only=True))

    return _remembered(_TRUNKS, kept, runtime, make)


def _remembered(memory: dict[tuple[Any, ...], Any], digest: str, runtime: Runtime, make: Callable[[], Any]) -> Any:
    key = (digest, runtime.device, runtime.threads, runtime.bases)
    if key not in memory:
        made = make()
        while len(memory) >= _KEEP:
            del memory[next(iter(memory))]
        memory[key] = made
    return memory[key]
