"""Trials tables of a space with a known truth, for the tests of recommended settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from search_spaces import Space
from sweeper.search.designs import qmc_design
from tests.support.trial_rows import table
from trainables.noise import predict_all
from trainables.spec import PairSpec
from trainables.training.optimizers import family

EXAMPLES = 720
PARENTS = 0.3
Truth = Callable[[PairSpec], float]
"""Expected gain of a trial [nat]; NaN for one that diverges."""


def settings_rows(space: Space, truth: Truth, count: int, *, seed: int = 0, scatter: float = 0.003) -> list[Any]:
    """Return rows of a quasi-random design whose gain is the truth with normal scatter; the loss falls with it."""
    rng = np.random.default_rng(seed)
    points = (qmc_design(space.knobs, seed, i, count, space.conditions) for i in range(count))
    return [settings_row(space, space.active_params(p), truth, rng, scatter, number=i) for i, p in enumerate(points)]


def settings_row(
    space: Space, params: Mapping[str, Any], truth: Truth, rng: np.random.Generator, scatter: float, **more: Any
) -> dict[str, Any]:
    """Return the row of one pair with these knobs."""
    spec = space.build(params, seed=0, repeat=more.get("repeat", 0))
    expected = truth(spec)
    row = {k: getattr(spec, k) for k in ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation",
           "augmentation_strength", "optimizer", "trainable", "digest", "config")}  # fmt: skip
    settings = {k: row[k] for k in ("learning_rate", "batch_size", "momentum", "weight_decay")}
    noises = predict_all({**settings, "examples": EXAMPLES, "beta1": spec.beta1}, family(spec.optimizer))
    row |= {f"noise_{name}": value for name, value in noises.items()}
    row |= {"spec": spec.to_json(), "examples": EXAMPLES, "classes": 10, "repeat": 0, "sampler": "qmc"}
    row |= {"outcome": "ok" if np.isfinite(expected) else "diverged"}
    if np.isfinite(expected):
        for split in ("val", "test"):
            gain = expected + scatter * rng.standard_normal()
            row |= {f"gain_mean_loss_{split}": gain, f"merged_loss_{split}": PARENTS - gain}
            row |= {f"merged_accuracy_{split}": 0.7 + gain}
    return {**row, **more}


def with_stages(rows: list[Any], stages: Mapping[int, str]) -> pa.Table:
    """Return a trials table with the column `stage`: position of a row -> its stage."""
    plain = table([{k: v for k, v in row.items() if k != "stage"} for row in rows])
    stage = pa.array([stages.get(i) for i in range(len(rows))], pa.string())
    if "stage" in plain.column_names:
        return plain.set_column(plain.column_names.index("stage"), "stage", stage)
    return plain.append_column("stage", stage)
