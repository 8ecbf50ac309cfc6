"""Does noise tell more than local flatness and good parents do? Nested regressions, both ways.

The objective of each trial is regressed on splines of the parents' sharpness and accuracy, then also on one of ln S;
F of what is added has errors clustered by configuration. The reverse adds sharpness to ln S and accuracy. A linear
partial correlation would miss an inverted U; splines do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sweeper.evidence.cells import Array, Rows
from sweeper.evidence.linear import Basis, design, least_squares, share, wald
from sweeper.objective import Objective

FREEDOM = 3
FOLDS = 10
MIN_CONFIGS = 20
_SHARPNESS = ("hessian_trace_{}", "hessian_trace_scaled_{}", "lambda_max_{}", "sharpness_worst_{}",
              "sharpness_average_{}")  # fmt: skip


@dataclass(frozen=True)
class Nested:
    """One nested comparison.

    Attributes:
        base, added: What stands in the smaller model, and what the larger one has besides.
        f, f_above, f_below, p: Wald F of the added columns, errors clustered by configuration.
        r2_gain: Cross-validated R² of the larger model minus that of the smaller, whole configurations left out.
    """

    base: tuple[str, ...]
    added: tuple[str, ...]
    f: float
    f_above: int
    f_below: int
    p: float
    r2_gain: float


@dataclass(frozen=True)
class Controls:
    """Both comparisons; None where `reason` says why.

    Attributes:
        n_trials, n_configs: Viable trials that have all columns, and their configurations.
        sharpness: Sharpness columns that were measured.
        noise_beyond: ln S beyond sharpness and accuracy.
        sharpness_beyond: Sharpness beyond ln S and accuracy; None where no sharpness was measured.
        reason: What is missing.
    """

    n_trials: int
    n_configs: int
    sharpness: tuple[str, ...] = ()
    noise_beyond: Nested | None = None
    sharpness_beyond: Nested | None = None
    reason: str = ""


def controls(trials: pa.Table, goal: Objective, noise: str, split: str, floor: float) -> Controls:
    """Compare noise with local flatness.

    Args:
        trials: Trials table.
        goal: The objective, on its split.
        noise: Name of the definition.
        split: Split of the parents' accuracy.
        floor: Least objective: the bad tail is raised to it.
    """
    rows = [r for r in trials.to_pylist() if r["outcome"] == "ok" and (r[f"noise_{noise}"] or 0) > 0]
    measured = [c for c in _SHARPNESS if _common(rows, c.format("a"), c.format("b"))]
    accuracy = f"a_accuracy_{split}", f"b_accuracy_{split}"
    needed = [*accuracy, *(c.format(e) for c in measured for e in "ab")]
    rows = [r for r in rows if r[goal.column] is not None and all(r[c] is not None for c in needed)]
    configs = len({r["config"] for r in rows})
    if configs < MIN_CONFIGS:
        why = f"{configs} viable configurations have noise, score and parents' accuracy, {MIN_CONFIGS} are needed"
        return Controls(len(rows), configs, reason=why)
    _, group = np.unique([r["config"] for r in rows], return_inverse=True)
    y = np.maximum([(1 if goal.maximize else -1) * goal.tell(r) for r in rows], floor)
    if np.ptp(y) <= 0:
        return Controls(len(rows), configs, reason="every trial has the same score")
    parts = {"noise": _spline(np.log([r[f"noise_{noise}"] for r in rows]))}
    parts["parents' accuracy"] = _spline(np.array([(r[accuracy[0]] + r[accuracy[1]]) / 2 for r in rows]))
    for column in measured:
        parts[column.format("")[:-1]] = _spline(_sharpness(rows, column))
    sharp = tuple(c.format("")[:-1] for c in measured)
    ahead = _nested(parts, y, group, (*sharp, "parents' accuracy"), ("noise",))
    if not sharp:
        why = "sharpness was not measured (`sweeper run --landscape` does): parents' accuracy is the only control"
        return Controls(len(rows), configs, (), ahead, None, why)
    behind = _nested(parts, y, group, ("noise", "parents' accuracy"), sharp)
    return Controls(len(rows), configs, sharp, ahead, behind)


def _common(rows: list[dict[str, float | None]], *columns: str) -> bool:
    return bool(rows) and all(sum(r[c] is not None for r in rows) >= 0.8 * len(rows) for c in columns)


def _sharpness(rows: list[dict[str, float]], column: str) -> Array:
    mean = np.array([(r[column.format("a")] + r[column.format("b")]) / 2 for r in rows])
    # ratios count where there is nothing below 0
    return np.log(mean) if (mean > 0).all() else mean


def _spline(x: Array) -> Array:
    return Basis.of(x, FREEDOM)(x)


def _nested(
    parts: dict[str, Array], y: Array, group: Rows, base: tuple[str, ...], added: tuple[str, ...]
) -> Nested | None:
    small = design(*(parts[n] for n in base))
    large = design(small[:, 1:], *(parts[n] for n in added))
    q = large.shape[1] - small.shape[1]
    if q < 1 or len(np.unique(group)) < large.shape[1] + 5:
        return None
    test = wald(least_squares(large, y), group, q)
    gain = _validated(large, y, group) - _validated(small, y, group)
    return Nested(base, added, test.f, test.q, test.below, test.p, gain)


def _validated(x: Array, y: Array, group: Rows) -> float:
    fold = np.random.default_rng(0).permutation(int(group.max()) + 1)[group] % FOLDS
    error = 0.0
    for k in range(FOLDS):
        rest = fold != k
        coefficients = np.linalg.lstsq(x[rest], y[rest], rcond=None)[0]
        error += float(np.sum((y[~rest] - x[~rest] @ coefficients) ** 2))
    return share(error, y)
