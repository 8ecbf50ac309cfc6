"""Controls for local flatness: does noise predict the merge beyond sharpness and the parents' accuracy?

======  ============================================================================================
symbol  meaning, for R trials (repeats) of C configurations
======  ============================================================================================
y       objective of a trial on the study's scale, larger is better, bad tail raised (`cells.raise_tail`)
S       noise; k a sharpness, mean over the children; a accuracy, mean over the children
s(v)    natural cubic spline of v with 4 columns, constant beyond its ends
======  ============================================================================================

Forward: y ~ s(ln k) + s(a) against y ~ s(ln k) + s(a) + s(ln S). Reverse: y ~ s(ln S) against the same larger model.
A Wald F tests the added columns. Its covariance is the cluster jackknife (CR3) over configurations, with C − 1 degrees
of freedom of the denominator: repeats share their hyperparameters and are not independent. ΔR² is that of left-out
configurations. The finding follows from F and ΔR², see `sweeper.analysis.evidence.gains`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sweeper.analysis.evidence.cells import Array, Rows, collect, raise_tail
from sweeper.analysis.evidence.gains import Finding, Gain, decide_finding, estimate_gain
from sweeper.analysis.evidence.linear import design_matrix, least_squares, predict_left_out, wald_test
from sweeper.formatting import pluralize
from sweeper.search.noise_sampler.single_index import Basis
from sweeper.search.objectives import Objective

SHARPNESS = ("hessian_trace", "hessian_trace_scaled", "lambda_max", "sharpness_worst", "sharpness_average")
FREEDOM = 4
# configurations per column of the larger model: with fewer, the jackknife has too few to leave out
PER_COLUMN = 2


@dataclass(frozen=True)
class Nested:
    """One nested regression in both directions; if impossible, the numbers are None and `reason` explains it.

    Attributes:
        sharpness: Stem of its columns, such as `lambda_max`; empty for the parents' accuracy alone.
        n: Number of trials, and `configs` of their configurations.
        f, p: Wald F of s(ln S) beyond sharpness and accuracy, with `df` added columns, and its two-sided p value.
        f_reverse, p_reverse: The same for sharpness and accuracy beyond the noise, with `df_reverse`.
        r2: R² of left-out configurations by sharpness and accuracy, `r2_noise` by the noise alone, `r2_both` by both.
        beyond: Number of configurations beyond the range of the others; the nearest end predicts these.
        gain: ΔR² that the noise adds; `gain_reverse` is the ΔR² that sharpness and accuracy add to the noise.
        finding: Whether the noise explains more than they do; `finding_reverse` is the reverse.
        reason: Why there is no result, else empty.
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
    beyond: int = 0
    gain: Gain | None = None
    gain_reverse: Gain | None = None
    finding: Finding | None = None
    finding_reverse: Finding | None = None
    reason: str = ""


def run_controls(trials: pa.Table, goal: Objective, noise: str, split: str) -> tuple[Nested, ...]:
    """Return the nested regressions of a sweep: beyond the parents' accuracy alone, and with each sharpness.

    Args:
        trials: Trials table; only `ok` trials enter.
        goal: The objective, on its split.
        noise: Name of the definition.
        split: Split of the parents' accuracy.

    Returns:
        The regression without a sharpness, then one per measured sharpness (`--landscape`).
    """
    y, owner = _objective(trials, goal)
    sides = [f"{who}_accuracy_{split}" for who in "ab"]
    ends = [f"{name}_{who}" for name in SHARPNESS for who in "ab"]
    rows = _rows(trials, [f"noise_{noise}", *sides, *ends]) if len(y) else []
    place = _logs([[r[f"noise_{noise}"]] for r in rows])
    accuracy = np.array([_mean([r[c] for c in sides]) for r in rows], dtype=float)
    regressions = [fit_nested("", y, owner, place, [accuracy])]
    for name in SHARPNESS:
        sharp = _logs([[r[f"{name}_{who}"] for who in "ab"] for r in rows])
        if np.isfinite(sharp).any():
            regressions.append(fit_nested(name, y, owner, place, [sharp, accuracy]))
    return tuple(regressions)


def _objective(trials: pa.Table, goal: Objective) -> tuple[Array, Rows]:
    cells = raise_tail(collect(trials, goal))
    return cells.value, cells.owner


def _rows(trials: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    # in the order of `Cells`: by configuration, then by position in the table
    rows = trials.select(["config", "outcome", *dict.fromkeys(columns)]).to_pylist()
    return sorted((r for r in rows if r["outcome"] == "ok"), key=lambda r: r["config"])


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None and math.isfinite(v)]
    return math.fsum(known) / len(known) if len(known) == len(values) else math.nan


def _logs(values: Sequence[Sequence[float | None]]) -> Array:
    means = np.array([_mean(v) for v in values], dtype=float)
    # a trace or an eigenvalue below 0 has no logarithm, so the trial does not enter
    return np.log(np.where(means > 0, means, np.nan))


def fit_nested(sharpness: str, y: Array, owner: Rows, place: Array, others: Sequence[Array]) -> Nested:
    """Return the nested regression of noise and other quantities, in both directions.

    Args:
        sharpness: Name of the sharpness, see `Nested`.
        y: Objective per trial, shape (R,).
        owner: Configuration per trial, shape (R,).
        place: Log noise per trial, shape (R,); nan if undefined.
        others: The other quantities, shape (R,) each; nan if not measured.
    """
    known = np.isfinite(place) & np.all([np.isfinite(v) for v in others], axis=0) if len(y) else np.zeros(0, dtype=bool)
    y, place = y[known], place[known]
    _, owner = np.unique(owner[known], return_inverse=True)
    n, configs = len(y), int(owner.max()) + 1 if len(owner) else 0
    others = [v[known] for v in others]
    noise, rest = _columns([place]), _columns(others)
    columns = 1 + noise.shape[1] + rest.shape[1]
    if reason := _explain_missing(y, configs, noise, rest, columns):
        return Nested(sharpness, n, configs, reason=reason)
    forward, reverse = _test_added(y, owner, rest, noise), _test_added(y, owner, noise, rest)
    by_rest, by_noise, by_both = (
        predict_left_out(y, np.ones(n), axes, group=owner, freedom=FREEDOM)
        for axes in (others, [place], [*others, place])
    )
    gains = estimate_gain(by_rest, by_both), estimate_gain(by_noise, by_both)
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
        r2=by_rest.r2,
        r2_noise=by_noise.r2,
        r2_both=by_both.r2,
        beyond=int(by_both.beyond.sum()),
        gain=gains[0],
        gain_reverse=gains[1],
        finding=decide_finding(forward[1], gains[0]),
        finding_reverse=decide_finding(reverse[1], gains[1]),
    )


def _explain_missing(y: Array, configs: int, noise: Array, rest: Array, columns: int) -> str:
    if not len(y):
        return "no viable trial has a score, a noise and all controls"
    if not noise.shape[1]:
        return "all of these trials have the same noise"
    if not rest.shape[1]:
        return "the controls do not vary"
    if configs < PER_COLUMN * columns:
        few = pluralize(configs, "configuration has", "configurations have")
        return f"{few} all of these, the test needs {PER_COLUMN * columns}"
    return "" if np.ptp(y) > 0 else "every trial has the same score"


def _columns(axes: Sequence[Array]) -> Array:
    """Return the splines' columns without a constant; a constant axis has none."""
    varying = [Basis.of(v, FREEDOM)(v) for v in axes if len(v) and np.ptp(v) > 0]
    return design_matrix(*varying)[:, 1:] if varying else np.zeros((len(axes[0]), 0))


def _test_added(y: Array, owner: Rows, base: Array, added: Array) -> tuple[float, float]:
    """Return Wald's F of the columns `added` beyond `base`, and its two-sided p value; see `linear`."""
    x = np.hstack([np.ones((len(y), 1)), base, added])
    test = wald_test(least_squares(x, y), owner, added.shape[1])
    return test.f, test.p
