"""Configurations with a known truth, for the tests of `sweeper.analysis.evidence`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sweeper.analysis.evidence.cells import NAMED, Array, Cells
from tests.support.trial_rows import BEST, trial


def cells(x: Any, values: Any, **more: Any) -> Cells:
    """Configurations at log noises x (`paper`) whose repeats have `values`, (C,) or (C, r); one knob varies."""
    x, values = np.asarray(x, dtype=float), np.asarray(values, dtype=float)
    values = values.reshape(len(x), -1)
    n, r = values.shape
    given: dict[str, Any] = {
        "config": tuple(f"{i:04d}" for i in range(n)),
        "z": values.mean(axis=1),
        "size": np.full(n, float(r)),
        "value": values.ravel(),
        "owner": np.repeat(np.arange(n), r),
        "noise": {name: np.full(n, np.nan) for name in NAMED} | {"paper": x},
        "factors": {"learning_rate": x},
        "knobs": {"learning_rate": np.exp(x)},
        "samplers": (),
    }
    return Cells(**{**given, **more})


def grid(curve: Callable[[float], float], *, scatter: float, repeats: int = 3, seed: int = 0, **powers: float):
    """Rows of a full grid whose gain is `curve`(log of the noise of these exponents over BEST) plus scatter.

    The exponents default to those of `paper`; the learning rates are placed so that the noise spans the curve.
    """
    rng = np.random.default_rng(seed)
    a = {"batch_size": -1.0, "one_minus_momentum": -1.0, "weight_decay": 0.0, **powers}
    rows: list[dict[str, Any]] = []
    for batch in (8, 32, 128):
        for momentum in (0.0, 0.9):
            for decay in (1e-4, 1e-3):
                for step in np.linspace(-3.0, 3.0, 9):
                    rest = batch ** a["batch_size"] * (1 - momentum) ** a["one_minus_momentum"]
                    rate = BEST * float(np.exp(step)) / (rest * (decay * 1e3) ** a["weight_decay"])
                    name = f"{batch}-{momentum}-{decay}-{step:.3f}"
                    knobs = {"learning_rate": rate, "batch_size": batch, "momentum": momentum, "weight_decay": decay}
                    rows += [
                        trial(name, curve(float(step)) + scatter * rng.normal(), repeat=k, sampler="grid", **knobs)
                        for k in range(repeats)
                    ]
    return rows


def bell(x: float) -> float:
    """A smooth hump of height .035 at 0."""
    return 0.035 * float(np.exp(-0.5 * x * x))


def columns(c: Cells) -> Array:
    return np.column_stack(list(c.factors.values()))
