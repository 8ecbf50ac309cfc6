"""Controls for local flatness: does noise tell of the merge what sharpness and the parents' accuracy do not?

======  ============================================================================================
symbol  meaning, for R trials (repeats) of C configurations
======  ============================================================================================
y       objective of a trial as the study is told it, larger is better, bad tail raised (`sweeper.evidence.cells.tame`)
S       noise; k a sharpness, mean over the children; a accuracy, mean over the children
s(v)    cubic B-spline of v with three knots: at the ends and the middle of its distinct values, 4 columns
======  ============================================================================================

Forward: y ~ s(ln k) + s(a) against y ~ s(ln k) + s(a) + s(ln S). Reverse: y ~ s(ln S) against the same larger model.
The added columns are tested by a Wald F whose covariance is the cluster jackknife (CR3) over configurations, with
C − 1 degrees of freedom of the denominator: repeats share their hyperparameters and are no independent trials.
ΔR² is out of sample, configurations held out in ten folds, predictions kept within the scores of the others; its error
comes from the configurations' shares.

Source: splines: Eilers & Marx 1996, doi 10.1214/ss/1038425655, without their penalty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sweeper.evidence.cells import Array, Rows, collect, tame
from sweeper.evidence.linear import least_squares, wald
from sweeper.objective import Objective

SHARPNESS = ("hessian_trace", "hessian_trace_scaled", "lambda_max", "sharpness_worst", "sharpness_average")
KNOTS = 3
FOLDS = 10
# configurations for each column of the larger model: fewer leave the jackknife nothing to hold out
PER_COLUMN = 2


@dataclass(frozen=True)
class Nested:
    """One nested regression, both ways; the numbers are None where it is not possible, and `reason` says why.

    Attributes:
        sharpness: Columns' stem in the trials table, such as `lambda_max`; empty: the parents' accuracy alone.
        n: Trials, and `configs` their configurations.
        f, p: Wald F of s(ln S) beyond sharpness and accuracy, with `df` columns added, and its p value.
        f_reverse, p_reverse: The same of sharpness and accuracy beyond the noise, with `df_reverse`.
        r2: In-sample R² of sharpness and accuracy, `r2_noise` of the noise alone, `r2_both` of both.
        delta_r2, delta_se: Out-of-sample R² that the noise adds, and its standard error over configurations.
        delta_r2_reverse, delta_se_reverse: The same of sharpness and accuracy beyond the noise.
        reason: Why there is no result; empty where there is one.
    """

    sharpness: str
    n: int
    configs: int
    f: float | None = None
    df: int | None = None
    p: float | None = None
    f_reverse: float | None = None
    df_reverse: int | None = None
    p_reverse: float | None = None
    r2: float | None = None
    r2_noise: float | None = None
    r2_both: float | None = None
    delta_r2: float | None = None
    delta_se: float | None = None
    delta_r2_reverse: float | None = None
    delta_se_reverse: float | None = None
    reason: str = ""


def controls(trials: pa.Table, goal: Objective, noise: str, split: str) -> tuple[Nested, ...]:
    """Return the nested regressions of a sweep: beyond the parents' accuracy, and beyond each sharpness beside it.

    Args:
        trials: Trials table; trials that are `ok` enter.
        goal: The objective, on its split.
        noise: Name of the definition.
        split: Split of the parents' accuracy.

    Returns:
        The first without a sharpness, then one for each that was measured (`--landscape`).
    """
    y, owner = _objective(trials, goal)
    sides = [f"{who}_accuracy_{split}" for who in "ab"]
    ends = [f"{name}_{who}" for name in SHARPNESS for who in "ab"]
    rows = _rows(trials, [f"noise_{noise}", *sides, *ends]) if len(y) else []
    place = _logs([[r[f"noise_{noise}"]] for r in rows])
    accuracy = np.array([_mean([r[c] for c in sides]) for r in rows], dtype=float)
    found = [_nested("", y, owner, place, [accuracy])]
    for name in SHARPNESS:
        sharp = _logs([[r[f"{name}_{who}"] for who in "ab"] for r in rows])
        if np.isfinite(sharp).any():
            found.append(_nested(name, y, owner, place, [sharp, accuracy]))
    return tuple(found)


def _objective(trials: pa.Table, goal: Objective) -> tuple[Array, Rows]:
    cells = tame(collect(trials, goal))
    return cells.value, cells.owner


def _rows(trials: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    # in the order of `Cells`: by configuration, then as they stand
    rows = trials.select(["config", "outcome", *dict.fromkeys(columns)]).to_pylist()
    return sorted((r for r in rows if r["outcome"] == "ok"), key=lambda r: r["config"])


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(known) / len(known) if len(known) == len(values) else math.nan


def _logs(values: Sequence[Sequence[float | None]]) -> Array:
    means = np.array([_mean(v) for v in values], dtype=float)
    # a trace or an eigenvalue below 0 has no logarithm: the trial is left out
    return np.log(np.where(means > 0, means, np.nan))


def _nested(sharpness: str, y: Array, owner: Rows, place: Array, others: Sequence[Array]) -> Nested:
    known = np.isfinite(place) & np.all([np.isfinite(v) for v in others], axis=0) if len(y) else np.zeros(0, dtype=bool)
    y, place = y[known], place[known]
    _, owner = np.unique(owner[known], return_inverse=True)
    n, configs = len(y), int(owner.max()) + 1 if len(owner) else 0
    noise, rest = spline(place), np.hstack([spline(v[known]) for v in others])
    columns = 1 + noise.shape[1] + rest.shape[1]
    if reason := _missing(y, configs, noise, rest, columns):
        return Nested(sharpness, n, configs, reason=reason)
    forward, reverse = _added(y, owner, rest, noise), _added(y, owner, noise, rest)
    delta, back = _delta(y, owner, rest, noise), _delta(y, owner, noise, rest)
    return Nested(
        sharpness,
        n,
        configs,
        f=forward[0],
        df=noise.shape[1],
        p=forward[1],
        f_reverse=reverse[0],
        df_reverse=rest.shape[1],
        p_reverse=reverse[1],
        r2=_r2(y, rest),
        r2_noise=_r2(y, noise),
        r2_both=_r2(y, np.hstack([rest, noise])),
        delta_r2=delta[0],
        delta_se=delta[1],
        delta_r2_reverse=back[0],
        delta_se_reverse=back[1],
    )


def _missing(y: Array, configs: int, noise: Array, rest: Array, columns: int) -> str:
    if not len(y):
        return "no viable trial has a score, a noise and all of the controls"
    if not noise.shape[1]:
        return "all of these trials have the same noise"
    if not rest.shape[1]:
        return "the controls do not vary"
    if configs < PER_COLUMN * columns:
        return f"{configs} configurations have all of it, at least {PER_COLUMN * columns} are needed"
    return "" if np.ptp(y) > 0 else "every trial has the same score"


def spline(values: Array) -> Array:
    """Return the columns of s(v) without a constant, shape (R, 4); fewer where v has few values, none where it is one.

    Two values give one column, three two (a parabola), four three.
    """
    distinct = np.unique(values)
    if len(distinct) < 2:
        return np.zeros((len(values), 0))
    scaled = (values - distinct[0]) / (distinct[-1] - distinct[0])
    if len(distinct) < KNOTS + 2:
        return np.column_stack([scaled**k for k in range(1, len(distinct))])
    from sklearn.preprocessing import SplineTransformer

    knots = np.quantile((distinct - distinct[0]) / (distinct[-1] - distinct[0]), np.linspace(0, 1, KNOTS))
    own: Any = knots[:, None]  # its annotation knows names only
    basis = SplineTransformer(degree=3, knots=own, include_bias=False)
    return np.asarray(basis.fit_transform(scaled[:, None]), dtype=float)


def _design(*parts: Array) -> Array:
    return np.hstack([np.ones((len(parts[0]), 1)), *parts])


def _fit(x: Array, y: Array) -> Array:
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], dtype=float)


def _r2(y: Array, part: Array) -> float:
    x = _design(part)
    return 1.0 - float(np.sum((y - x @ _fit(x, y)) ** 2) / np.sum((y - y.mean()) ** 2))


def _added(y: Array, owner: Rows, base: Array, added: Array) -> tuple[float, float]:
    """Return Wald's F of the columns `added` beyond `base`, and its p value; see `sweeper.evidence.linear`."""
    test = wald(least_squares(_design(base, added), y), owner, added.shape[1])
    return test.f, test.p


def _delta(y: Array, owner: Rows, base: Array, added: Array) -> tuple[float, float]:
    small, large = _held_out(y, owner, _design(base)), _held_out(y, owner, _design(base, added))
    total = float(np.sum((y - y.mean()) ** 2))
    # what each configuration adds; their sum is the difference in R²
    shares = np.bincount(owner, small - large) / total
    return float(shares.sum()), float(np.std(shares, ddof=1) * math.sqrt(len(shares)))


def _held_out(y: Array, owner: Rows, x: Array) -> Array:
    """Return the squared errors of predictions for configurations that were held out, shape (R,)."""
    from sklearn.model_selection import GroupKFold

    out = np.empty(len(y))
    for kept, held in GroupKFold(FOLDS, shuffle=True, random_state=0).split(x, y, owner):
        # a cubic runs away beyond the values that it was fitted on: a prediction keeps to the scores that were seen
        guess = np.clip(x[held] @ _fit(x[kept], y[kept]), y[kept].min(), y[kept].max())
        out[held] = (y[held] - guess) ** 2
    return out
