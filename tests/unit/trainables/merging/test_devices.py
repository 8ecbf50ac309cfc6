"""Merges on the host and scores on the device: with a device whose tensors refuse to meet those of the host."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.another_device import another_device
from trainables.merging.coefficient_grid import score_merges
from trainables.merging.merge_curves import MergeCurves
from trainables.models.tensors import aliases, move
from trainables.pair.setup import Lab, prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.tasks import Task, Weights

COMMON: dict[str, Any] = {"learning_rate": 0.1, "batch_size": 16, "base": {"steps": 0}, "steps": 2}
MERGES = ["linear", "task_arithmetic", "ties", "dare", "regmean", "uniform_soup", "greedy_soup", "model_stock"]
SOME = ["linear", "ties", "regmean"]
SPECS: dict[str, dict[str, Any]] = {
    "text": {
        "dataset": "sentences", "dataset_options": {"context": 8, "train": 32, "val": 16, "test": 16}, "model": "gpt",
        "model_options": {"layers": 1, "width": 8, "heads": 2, "attention": "eager"}, "members": 3,
        "merges": [*MERGES, "slerp", "fisher"],
    },
    "BatchNorm": {
        "dataset": "digits", "model": "mlp", "model_options": {"widths": [8], "norm": "batch"},
        "merges": [*SOME, "fisher"], "window": {"size": 2},
    },
    "aligned": {
        "dataset": "digits", "model": "mlp", "model_options": {"widths": [8]},
        "merges": ["linear", "weight_matching", "weight_matching_repair"],
    },
    "tasks": {
        "pair_kind": "tasks", "datasets": ["digits", {"name": "digits", "options": {"split_seed": 1}}],
        "model": "mlp", "model_options": {"widths": [8]}, "merges": [*SOME, "taskwise_arithmetic"],
    },
}  # fmt: skip


def _phase(name: str) -> AbstractContextManager[None]:
    return nullcontext()


def _near(task: Task, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    near = {
        k: v + 0.05 * torch.rand(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in task.base.items()
    }
    return near | {second: near[first] for second, first in aliases(task.model).items()}


def _on(device: str, task: Task) -> Task:
    model = copy.deepcopy(task.model).to(device)
    data = task.data.to(device, torch.float32)
    batches = [b.to(device) for b in task.batches]
    return replace(task, model=model, data=data, batches=batches)


def _score(spec: PairSpec, lab: Lab, children: Sequence[Weights], means: Sequence[Weights]) -> MergeCurves:
    windows = [{2: m} for m in means] if spec.window else []
    return score_merges(spec, lab.tasks, children, _phase, windows=windows)


@pytest.mark.parametrize("kind", SPECS)
def test_merges_and_scores_are_those_of_one_device(kind: str) -> None:
    spec = PairSpec.from_mapping({**COMMON, **SPECS[kind]})
    lab = prepare(spec, Runtime())
    for task in lab.tasks:
        task.batches = lab.recalibration_batches(spec, task, most=2)
    own = lab.children
    children = [_near(own[i], i + 1) for i in range(spec.members)]
    means = [_near(own[i], i + 11) for i in range(spec.members)]
    here = _score(spec, lab, children, means)
    with another_device() as device:
        lab.tasks = [_on(device, task) for task in lab.tasks]
        lab.__dict__.pop("data", None)
        assert lab.tasks[0].device.type == device
        there = _score(spec, lab, [move(c, device) for c in children], means)
    assert there.merges == here.merges
    assert there.windows == here.windows
    assert (there.parents, there.others, there.ensemble) == (here.parents, here.others, here.ensemble)
    assert (there.chosen, there.chosen_window, there.cka) == (here.chosen, here.chosen_window, here.cka)
    assert there.midpoints == here.midpoints
    kept = [there.weights, *there.recalibrated.values()]
    assert all(v.device.type == "cpu" for weights in kept for v in weights.values())
    assert all(torch.equal(v, here.weights[k]) for k, v in there.weights.items())


def test_tensors_of_two_devices_do_not_meet() -> None:
    with another_device() as device:
        away = torch.ones(3).to(device)
        assert torch.equal((away + away * 2.0).cpu(), torch.full((3,), 3.0))
        with pytest.raises(RuntimeError, match="meets tensors of two devices"):
            torch.add(away, torch.ones(3))
