"""Distances between a pair's weights, and the landscape around children and midpoint on fixed examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from trainables.measurement.derivatives import Objective, objective
from trainables.measurement.landscape import Point, describe_points, landscape
from trainables.measurement.loss_plane import plane
from trainables.merging.methods import MERGES
from trainables.tasks.evaluation import finite, recalibrate
from trainables.tasks.tasks import Task, Weights, trained_names

LANDSCAPE_EXAMPLES = 1024


def few_examples(task: Task, split: str) -> tuple[Tensor, Tensor]:
    """Return the fixed examples of a split for landscapes, and their labels."""
    x, y = task.data.scored(split)
    few = slice(0, min(len(y), LANDSCAPE_EXAMPLES))
    return x[few], y[few]


def relief_columns(
    tasks: Sequence[Task], children: Sequence[Weights], recalibrated: Mapping[str, Weights], seed: int
) -> dict[str, float | None]:
    """Return the columns of `trainables.result.LANDSCAPE` for a scored pair, in full precision.

    Of several tasks, it is the pair of the first two. Each end is described on its own task, the middle of the shared
    weights on the mean loss of both, each with the head of its child; the point is the vector of shared parameters.

    Args:
        tasks: Tasks, with their batches for the BatchNorm re-estimation.
        children: Their children, on the host; of one task all of them.
        recalibrated: Weights of `a`, `b` and their midpoint `merged`, for one task, on any device.
        seed: Seed of the random vectors.
    """
    if len(tasks) == 1:
        task, (x, y) = tasks[0], few_examples(tasks[0], "train")
        a, b, middle = (recalibrated[k] for k in ("a", "b", "merged"))
        return finite(landscape(task.model, a, b, middle, trained_names(task.model), x, y, seed))
    middle = MERGES["linear"](tasks[0].shared(tasks[0].base), _share(tasks, children), 0.5)
    pair = list(zip(tasks[:2], children[:2], strict=True))
    points: dict[str, Callable[[], Point]] = {
        name: lambda task=task, child=child: _describe(task, child)
        for name, (task, child) in zip("ab", pair, strict=True)
    }
    points["merged"] = lambda: _mean([_describe(task, task.whole(middle, child)) for task, child in pair])
    return finite(describe_points(points, seed))


def _share(tasks: Sequence[Task], children: Sequence[Weights]) -> list[dict[str, Tensor]]:
    return [task.shared(child) for task, child in zip(tasks[:2], children[:2], strict=True)]


def _describe(task: Task, weights: Weights) -> Point:
    """Return the task's training loss over the shared parameters, at these weights."""
    names = [n for n in trained_names(task.model) if not task.is_own(n)]
    ready = recalibrate(task.model, task.mount(weights), task.batches)
    return objective(task.model, ready, names, *few_examples(task, "train"))


def _mean(points: Sequence[Point]) -> Point:
    def scale(part: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
        return part(w) / len(points)

    return Objective([partial(scale, part) for loss, _ in points for part in loss.parts]), points[0][1]


def pair_plane(
    tasks: Sequence[Task], children: Sequence[Weights], points: int
) -> Iterator[tuple[float, float, float, float]]:
    """Yield the rows of `trainables.measurement.loss_plane.plane` for the first two children.

    Of several tasks, the losses are means over the first two tasks, each with the head of its child.
    """
    if len(tasks) == 1:
        yield from _plane_of(tasks[0], tasks[0].base, children[0], children[1], points)
        return
    base, (a, b) = tasks[0].shared(tasks[0].base), _share(tasks, children)
    one, two = (
        _plane_of(task, task.whole(base, child), task.whole(a, child), task.whole(b, child), points)
        for task, child in zip(tasks[:2], children[:2], strict=True)
    )
    for (x, y, train, val), (_, _, train_b, val_b) in zip(one, two, strict=True):
        yield x, y, (train + train_b) / 2, (val + val_b) / 2


def _plane_of(
    task: Task, base: Weights, a: Weights, b: Weights, points: int
) -> Iterator[tuple[float, float, float, float]]:
    train, val = few_examples(task, "train"), few_examples(task, "val")

    def prepare(weights: Weights) -> Weights:
        return recalibrate(task.model, task.mount(weights), task.batches)

    return plane(task.model, base, a, b, train, val, points, prepare)


def geometry(
    base: Mapping[str, Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Iterable[str]
) -> dict[str, float]:
    """Return |theta_A - theta_B|, cos(tau_A, tau_B), |theta_A| and |theta_B| over the parameters `names`."""
    names = list(names)
    flat = [torch.cat([w[n].double().flatten() for n in names]) for w in (base, a, b)]
    ta, tb = flat[1] - flat[0], flat[2] - flat[0]
    norms = _norm(ta) * _norm(tb)
    return {
        "distance": _norm(flat[1] - flat[2]),
        "task_cosine": float(ta @ tb) / norms if norms else math.nan,
        "norm_a": _norm(flat[1]),
        "norm_b": _norm(flat[2]),
    }


def _norm(vector: Tensor) -> float:
    norm = cast(Tensor, torch.linalg.vector_norm(vector))  # pyright: ignore[reportUnknownMemberType]
    return float(norm)
