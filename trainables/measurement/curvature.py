"""Distances between a pair's weights, and the landscape around children and midpoint on fixed examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor

from trainables.measurement.landscape import landscape
from trainables.merging.merge_curves import MergeCurves
from trainables.tasks.evaluation import finite
from trainables.tasks.tasks import Task, trained_names

LANDSCAPE_EXAMPLES = 1024


def few_examples(task: Task, split: str) -> tuple[Tensor, Tensor]:
    """Return the fixed examples of a split for landscapes, and their labels."""
    x, y = task.data.scored(split)
    few = slice(0, min(len(y), LANDSCAPE_EXAMPLES))
    return x[few], y[few]


def relief_columns(task: Task, curves: MergeCurves, seed: int) -> dict[str, float | None]:
    """Return the columns of `trainables.result.LANDSCAPE` for a scored pair of one task, in full precision."""
    a, b, middle = (curves.recalibrated[k] for k in ("a", "b", "merged"))
    x, y = few_examples(task, "train")
    return finite(landscape(task.model, a, b, middle, trained_names(task.model), x, y, seed))


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
