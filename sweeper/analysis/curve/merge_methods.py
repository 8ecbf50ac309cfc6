"""Noise and merge method: the best noise of every method, each at the coefficient that validation chooses.

A method that makes up for wrong hyperparameters would have a flat curve, or its best value at another noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sweeper.analysis.curve.windows import select_last_weights
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.analysis.stages.designed import select_budget
from sweeper.formatting import BETWEEN_PARENTS, FROM_BASE

OBJECTIVE = "merged_loss"
DRAWS = 100


@dataclass(frozen=True)
class MethodCurve:
    """The test loss of one merge method along the noise.

    Attributes:
        method: Name of the merge.
        configurations: Viable configurations with this merge.
        optimum: Noise at which its loss is lowest; None if not determined.
        low, high: 90 % interval of the optimum.
        interior: Whether the optimum lies clearly inside the tried range.
        loss: Test loss at the optimum [nat].
        loss_low, loss_high: 90 % band of the curve there [nat].
        elsewhere: Test loss of this method at the noise where `linear` is worst within the middle 80 % of the tried
            noises [nat]; None without a curve.
        elsewhere_low, elsewhere_high: 90 % band of the curve there [nat].
        message: One or two sentences on the optimum.
    """

    method: str
    configurations: int
    optimum: float | None
    low: float | None
    high: float | None
    interior: bool
    loss: float | None
    loss_low: float | None
    loss_high: float | None
    elsewhere: float | None
    elsewhere_low: float | None
    elsewhere_high: float | None
    message: str

    def record(self) -> dict[str, Any]:
        """Return the curve as a record for JSON."""
        return asdict(self)


def fit_merge_methods(trials: pa.Table, merges: pa.Table, noise: str, seed: int = 0) -> tuple[MethodCurve, ...]:
    """Return one curve per merge method, the lowest loss first.

    Validation chooses the coefficient of every trial, without those that return a parent or the base; the curves are
    of the test loss. As everywhere, designed trials count alone if they have enough noises.

    Args:
        trials: Trials table.
        merges: Merges table.
        noise: Name of the noise.
        seed: Seed of the bootstrap.
    """
    trials, chosen = select_budget(trials, noise), choose_coefficients(merges)
    regimes = {
        method: fit_regime(
            _with_losses(trials, losses), OBJECTIVE, noise, split="test", seed=seed, draws=DRAWS, by_knob=False
        )
        for method, losses in chosen.items()
    }
    place = _find_worst(regimes.get("linear"))
    curves = [_make_curve(method, regime, place) for method, regime in regimes.items()]
    return tuple(sorted(curves, key=lambda c: (c.loss is None, c.loss or 0.0, c.method)))


class MethodScores(NamedTuple):
    """Scores of a merge method in one trial, at the coefficient with the lowest validation loss."""

    loss_val: float
    loss_test: float
    accuracy_test: float


def choose_coefficients(merges: pa.Table) -> dict[str, dict[str, MethodScores]]:
    """Return method -> trial -> scores of the last weights, without coefficients that return a parent or the base."""
    names = ["digest", "method", "coefficient", *MethodScores._fields]
    found: dict[str, dict[str, MethodScores]] = {}
    for row in select_last_weights(merges).select(names).to_pylist():
        method, at, losses = row["method"], row["coefficient"], (row["loss_val"], row["loss_test"])
        accuracy = row["accuracy_test"]
        ends = (0.0, 1.0) if method in BETWEEN_PARENTS else (0.0,) if method in FROM_BASE else ()
        if at in ends or any(v is None or not math.isfinite(v) for v in losses):
            continue
        best = found.setdefault(method, {}).get(row["digest"])
        if best is None or losses[0] < best.loss_val:
            found[method][row["digest"]] = MethodScores(*losses, math.nan if accuracy is None else accuracy)
    return found


def _with_losses(trials: pa.Table, losses: Mapping[str, MethodScores]) -> pa.Table:
    digests = trials.column("digest").to_pylist()
    for i, name in enumerate(("merged_loss_val", "merged_loss_test")):
        values = [losses[d][i] if d in losses else None for d in digests]
        index = trials.column_names.index(name)
        trials = trials.set_column(index, trials.schema.field(index), pa.array(values, pa.float64()))
    return trials


def _find_worst(linear: Regime | None) -> float | None:
    if linear is None or not linear.grid:
        return None
    inner = slice(len(linear.grid) // 10, len(linear.grid) - len(linear.grid) // 10)
    return linear.grid[inner][int(np.argmax(linear.mean[inner]))]


def _make_curve(method: str, regime: Regime, place: float | None) -> MethodCurve:
    low, high = None, None
    if regime.optimum is not None:
        low, high = (_read(regime, side, regime.optimum) for side in (regime.lower, regime.upper))
    there, below, above = None, None, None
    if place is not None and regime.grid:
        there, below, above = (_read(regime, side, place) for side in (regime.mean, regime.lower, regime.upper))
    return MethodCurve(
        method, regime.n_configs, regime.optimum, regime.low, regime.high, regime.interior, regime.value, low, high,
        there, below, above, regime.message,
    )  # fmt: skip


def _read(regime: Regime, curve: tuple[float, ...], noise: float) -> float:
    return float(np.interp(math.log(noise), np.log(regime.grid), curve))
