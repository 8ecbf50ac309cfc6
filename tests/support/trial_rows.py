"""Trials tables with a known truth, for the tests of regime and recommend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from sweeper.storage.schema import SCHEMAS
from trainables.noise import KNOBS, predict_all

BEST = 1e-2
# the scales that the rows have
OF_ROWS = list(predict_all({**dict.fromkeys(KNOBS, 0.1), "examples": 720}))


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])


def trial(config: str, gain: float | None, *, repeat: int = 0, **more: Any) -> dict[str, Any]:
    """One row: learning rate .1, batch 32, momentum .9, parents' loss .3 on every split unless told otherwise."""
    knobs = {"learning_rate": 0.1, "batch_size": 32, "momentum": 0.9, "weight_decay": 1e-4, "examples": 720}
    knobs |= {k: more.pop(k) for k in list(more) if k in knobs}
    scores: dict[str, float] = {}
    if gain is not None:
        scores = {"gain_mean_loss_val": gain, "merged_loss_val": 0.3 - gain}
        for i, who in enumerate(("a", "b", "merged", "chosen", "ensemble")):
            loss = 0.3 if i < 2 else 0.3 - gain
            scores |= {f"{who}_loss_test": loss, f"{who}_accuracy_test": 1.0 - loss}
    row = {"digest": f"{config}-{repeat}", "config": config, "repeat": repeat, "outcome": "ok", "classes": 10}
    row |= {"trainable": "pair", "sampler": "random", "device_seconds": 0.5, "augmentation": "shift"}
    noises = {f"noise_{name}": value for name, value in predict_all(knobs).items()}
    return {**row, "augmentation_strength": 0.5, **knobs, **noises, **scores, **more}


def hump(x: float, rng: np.random.Generator) -> float:
    """Gain .035 at BEST, width 1.2 in log noise; beyond six times BEST merges collapse by about 1.5 nat."""
    gain = 0.035 * math.exp(-0.5 * (x / 1.2) ** 2)
    return gain - rng.exponential(1.5) if x > math.log(6) else gain


def monotone(x: float, _: np.random.Generator) -> float:
    """Rises by .035 over the whole range."""
    return 0.035 * x / math.log(1e4)


def flat(_x: float, _rng: np.random.Generator) -> float:
    return 0.0


def sweep(curve: Any, n: int, seed: int, *, scatter: float = 0.004, sampler: str = "random") -> list[dict[str, Any]]:
    """n configurations, log-uniform in noise over 1e-4 to 1, gain `curve`(log(noise / BEST)) plus normal scatter."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        x = rng.uniform(math.log(1e-2), math.log(1e2))
        batch, momentum = int(2 ** rng.integers(3, 8)), float(rng.choice([0.0, 0.5, 0.9, 0.95]))
        rate = BEST * math.exp(x) * batch * (1 - momentum)
        gain = curve(x, rng) + scatter * rng.normal()
        rows.append(
            trial(str(i), gain, learning_rate=rate, batch_size=batch, momentum=momentum, sampler=sampler, number=i)
        )
    return rows
