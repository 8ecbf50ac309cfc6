"""Regime: an objective as a function of the noise scale, its best noise, and the interval of that noise.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
x       log noise of a configuration, of the chosen definition
z       its objective on the study's scale (`Objective.tell`, mean of repeats), larger is better
f       Gaussian process over x with length scale l and relative scatter r, see `sweeper.analysis.curve.smoother`
x*      argmax of f over the tried range of x
======  ============================================================================================

Only viable pairs enter (outcome `ok`). A pair whose merge overflowed has no finite objective and enters at the cap, as
in the study. A few merges collapse and would flatten the rest of the curve, so z is winsorised on its bad side.

A grid integrates over (l, r). With a few dozen configurations the best-fitting (l, r) often give a wiggly curve. Its
interval covers too rarely, and its optimum looks interior even if nothing depends on noise.

The interval of x* is a bootstrap over configurations that draws (l, r) anew each time. It excludes noises that are
significantly worse (`sweeper.analysis.curve.interval`), and it holds for the tried range of noise.

This module gives no verdict on the curve's shape: an adaptive search samples near its own optimum and biases a verdict.
For the same reason, the interval of an adaptive search covers the draw of configurations, not the outcome of another
search. The module then tests no knob for an effect on the optimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sweeper.analysis.curve.interval import trim_interval
from sweeper.analysis.curve.knob_effects import KnobEffect, find_knob_effects
from sweeper.analysis.curve.smoother import MAX_GROUPS, Array, average_curve, bootstrap_argmax, fit_smoother
from sweeper.analysis.stages.designed import find_adaptive, find_share, select_designed
from sweeper.formatting import at_share, pluralize
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES, Objective
from trainables.result import UNSTABLE

MIN_CONFIGS = 6
MIN_LEVELS = 4
MIN_SPAN = 1.5
MIN_EACH = 12
"""One value of a knob needs this many configurations for its own optimum."""
DRAWS_EACH = 100
GROUPS_EACH = 40
"""Such an optimum is fitted to at most this many means of neighbours."""
_MOVING = ("batch_size", "momentum", "weight_decay", "augmentation_strength", "augmentation")
GRID = 201
_ROWS = 500
EDGE = 0.05
# the study sees the logarithm of these objectives
LOGARITHMIC = frozenset({"merged_loss", "cost"})


@dataclass(frozen=True)
class Regime:
    """An objective's best noise, its interval and its curve.

    Attributes:
        objective: Name in `OBJECTIVES`.
        noise: Name in `NOISE`.
        column: Column of the trials table that holds the objective.
        maximize: Whether a larger objective is better.
        unit: Unit of the noise scale.
        optimum: Noise at the best predicted objective; None if not determined.
        low, high: 90 % interval of the optimum, in the same unit.
        value: Predicted objective at the optimum, in the column's unit.
        edge_share: Share of the bootstrap optima at an edge of the tried range. The edge is the outermost 5 % of log
            noise, or half the gap to the next noise (at most 15 %).
        interior: Whether the optimum is determined and `edge_share` < 0.05.
        adaptive: Whether an adaptive sampler chose any of the configurations.
        n_trials: Viable trials with a positive noise. A trial without a finite objective counts at the cap: its
            merge overflowed.
        n_configs: Configurations of these trials.
        n_left_out: All other rows of the table.
        grid: Noises of the curve, equally spaced in log; empty if not determined.
        mean, lower, upper: Predicted objective at `grid` and the 90 % band of the curve, in the column's unit.
        floor: Value to which worse configurations were raised; None if none were. The curve is a robust average: it
            also raises a configuration far below its neighbours in noise.
        message: One or two sentences for people.
        moved: Knobs that move the best noise, with one optimum per value; the pooled optimum is then an average.
        proxy: Share of the training budget that the trials had; None for the full one.
    """

    objective: str
    noise: str
    column: str
    maximize: bool
    unit: str
    optimum: float | None
    low: float | None
    high: float | None
    value: float | None
    edge_share: float | None
    interior: bool
    adaptive: bool
    n_trials: int
    n_configs: int
    n_left_out: int
    grid: tuple[float, ...]
    mean: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    floor: float | None
    message: str
    moved: tuple[KnobEffect, ...] = ()
    proxy: float | None = None


@dataclass(frozen=True)
class _Data:
    """Viable configurations in ascending order of noise."""

    x: Array
    z: Array
    knobs: Mapping[str, list[Any]]
    n_trials: int
    n_left_out: int
    adaptive: tuple[str, ...]
    failed_beyond: bool


def fit_regime(
    trials: pa.Table,
    objective: str = "gain_mean",
    noise: str = "paper",
    *,
    split: str | None = None,
    seed: int = 0,
    draws: int = 300,
    by_knob: bool = True,
) -> Regime:
    """Return the regime of an objective: its curve over log noise and its best noise.

    Above 120 configurations the Gaussian process is fitted to means of neighbours in noise, in groups of equal size.
    The bootstrap still draws configurations.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it. Only the designed trials count, if they
            have enough noises; see `sweeper.analysis.stages.designed.select_designed`.
        objective: Name in `OBJECTIVES`.
        noise: Name in `NOISE`, predicted or measured.
        split: Split of the scores; by default validation, or test if nothing else was measured.
        seed: Seed of the bootstrap; the table and the seed determine the result.
        draws: Number of bootstrap draws.
        by_knob: Whether to look for knobs that move the optimum.

    Returns:
        The regime. If the trials determine no optimum, `optimum` is None and `message` gives the reason.

    Raises:
        UnknownName: No such objective or noise.
        ValueError: `draws` is below 1, no such split, or the noise has no column.
    """
    goal, scale = OBJECTIVES[objective], check_shown(noise)
    goal = goal.on(split or goal.split_in(trials))
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws!r}")
    trials = select_designed(trials, noise)
    with threadpool_limits(1):  # for hundreds of small matrices further threads only wait
        names = {"objective": objective, "noise": noise, "unit": scale.unit}
        regime = _regime(trials, goal, names, seed, draws, by_knob)
    share = find_share(trials)
    if share is None:
        return regime
    return replace(regime, proxy=share, message=f"{regime.message.rstrip('.')}; this is{at_share(share)}.")


def _regime(
    trials: pa.Table, goal: Objective, names: Mapping[str, str], seed: int, draws: int, by_knob: bool
) -> Regime:
    data = _collect(trials, goal, names["noise"])
    shared: dict[str, Any] = {
        **names,
        "column": goal.column,
        "maximize": goal.maximize,
        "adaptive": bool(data.adaptive),
        "n_trials": data.n_trials,
        "n_configs": len(data.x),
        "n_left_out": data.n_left_out,
    }
    if missing := _explain_missing(data):
        nothing = dict.fromkeys(("optimum", "low", "high", "value", "edge_share", "floor"))
        empty = dict.fromkeys(("grid", "mean", "lower", "upper"), ())
        return Regime(**shared, **nothing, **empty, interior=False, message=f"best noise not determined: {missing}")
    return Regime(**shared, **_fit(data, names["objective"], names["unit"], seed, draws, by_knob))


def _collect(trials: pa.Table, goal: Objective, noise: str) -> _Data:
    column = f"noise_{noise}"
    moving = [k for k in _MOVING if k in trials.column_names]
    rows = trials.select(["config", "outcome", "classes", goal.column, column, *moving]).to_pylist()
    values: dict[str, list[float]] = {}
    noises: dict[str, list[float]] = {}
    knobs: dict[str, dict[str, Any]] = {}
    failed: list[float] = []
    known = 0
    for row in rows:
        level, value = row[column], row[goal.column]
        if level is None or not (level > 0 and math.isfinite(level)):
            continue
        if row["outcome"] == "ok":
            known += value is not None and math.isfinite(value)
            values.setdefault(row["config"], []).append(goal.tell(row))
            noises.setdefault(row["config"], []).append(level)
            knobs[row["config"]] = row
        elif row["outcome"] in UNSTABLE:
            failed.append(level)
    if not known:  # no trial measured the objective
        values = {}
    # repeats share a predicted noise, but each repeat measures its own
    place = {c: float(np.mean(np.log(noises[c]))) for c in values}
    configs = sorted(values, key=lambda c: (place[c], c))
    x = np.array([place[c] for c in configs])
    z = np.array([math.fsum(values[c]) / len(values[c]) for c in configs]) * (1 if goal.maximize else -1)
    used = sum(len(v) for v in values.values())
    beyond = len(x) > 0 and any(math.log(level) > x[-1] for level in failed)
    settings = {k: [knobs[c][k] for c in configs] for k in moving}
    return _Data(x, z, settings, used, len(rows) - used, find_adaptive(trials), beyond)


def _explain_missing(data: _Data) -> str:
    # reason why no optimum can be located, else empty
    n = len(data.x)
    if n < MIN_CONFIGS:
        counted = pluralize(n, "viable configuration has", "viable configurations have")
        left = f" ({pluralize(data.n_left_out, 'trial does', 'trials do')} not count)" if data.n_left_out else ""
        return f"{counted} a noise and a score, the fit needs {MIN_CONFIGS}{left}"
    return _explain_narrow(data.x, data.z)


def _explain_narrow(x: Array, z: Array) -> str:
    levels = len(np.unique(x.round(6)))
    if levels < MIN_LEVELS:
        return f"the viable configurations have {levels} different noises, the fit needs {MIN_LEVELS}"
    if (span := math.exp(x[-1] - x[0])) < MIN_SPAN:
        return f"the viable configurations span a factor {span:.3g} in noise, the fit needs {MIN_SPAN}"
    if np.ptp(z) <= 1e-12 * max(1.0, float(np.abs(z).max())):
        return "every viable configuration has the same score"
    return ""


def tail_floors(z: Array) -> tuple[Array, float | None]:
    """Return the floors to which to raise the bad tail of `z`, whose values are in order of noise.

    The spread is that of the best third, or three times the scatter between neighbours if that is larger. Two floors
    apply:

    - The global floor lies three spreads below the good end, or at the level of the lowest noises if that is lower, and
      at most ten spreads below. A collapse hundreds of times deeper than the hump then does not flatten it.
    - The local floor lies one and a half spreads below the good quarter of the neighbours in noise. A few collapses at
      the best noise, such as from too large a step at a large batch, then do not move the optimum.

    Returns:
        The larger of the two floors per value, and the global floor; None if that one changes nothing.
    """
    top = float(np.quantile(z, 0.95))
    # the lower quartile of |z - z'| is .3186 sqrt(2) of a normal scatter, and collapses do not affect it
    scatter = float(np.quantile(np.abs(np.diff(z)), 0.25)) / (0.3186 * math.sqrt(2.0))
    spread = max(top - float(np.quantile(z, 2 / 3)), 3.0 * scatter)
    if spread <= 0:
        # most values are equal, so there is no spread
        return np.full(len(z), -np.inf), None
    start = float(np.quantile(z[: max(3, len(z) // 4)], 0.25))
    floor = max(min(top - 3.0 * spread, start), top - 10.0 * spread)
    half = max(3, len(z) // 12)
    local = _quartiles_nearby(z, half) - 1.5 * spread
    return np.maximum(floor, local), floor if floor > z.min() else None


def _quartiles_nearby(z: Array, half: int) -> Array:
    # upper quartiles of windows, shape (n,): a value and its `half` neighbours on both sides
    out = np.empty(len(z))
    for i in (*range(min(half, len(z))), *range(max(half, len(z) - half), len(z))):
        out[i] = np.quantile(z[max(0, i - half) : i + half + 1], 0.75)
    if len(z) > 2 * half:
        windows = np.lib.stride_tricks.sliding_window_view(z, 2 * half + 1)
        for first in range(0, len(windows), _ROWS):  # in blocks, since each is copied
            block = windows[first : first + _ROWS]
            out[half + first : half + first + len(block)] = np.quantile(block, 0.75, axis=1)
    return out


def edges(x: Array) -> tuple[float, float]:
    """Return the log noises that bound the interior: an optimum at or beyond one of them lies at an edge."""
    levels = np.unique(x.round(6))
    span = levels[-1] - levels[0]
    below, above = (float(np.clip(gap / 2, EDGE * span, 3 * EDGE * span)) for gap in np.diff(levels)[[0, -1]])
    return float(x[0]) + below, float(x[-1]) - above


@dataclass(frozen=True)
class LocatedOptimum:
    """The optimum of a smooth curve through standardized scores, with its inputs; all noises are logarithms."""

    raised: Array
    shift: float
    scale: float
    floor: float | None
    grid: Array
    mean: Array
    sd: Array
    best: Array
    optimum: float
    low: float
    high: float


def locate_optimum(x: Array, scores: Array, seed: int, draws: int, groups: int = MAX_GROUPS) -> LocatedOptimum:
    """Return the optimum of a smooth curve through scores in order of log noise; larger scores are better."""
    least, floor = tail_floors(scores)
    raised = np.maximum(scores, least)
    shift, scale = float(raised.mean()), float(raised.std())
    z = (raised - shift) / scale
    smoother = fit_smoother(x, z, groups)
    grid = np.linspace(x[0], x[-1], GRID)
    mean, sd = average_curve(smoother, grid, z)
    best = bootstrap_argmax(smoother, grid, z, seed, draws)
    centre = float(grid[int(np.argmax(mean))])
    low, high = (float(v) for v in np.quantile(best, [0.05, 0.95]))
    low, high = min(low, centre), max(high, centre)
    return LocatedOptimum(raised, shift, scale, floor, grid, mean, sd, best, centre, low, high)


def _find_knob_effects(data: _Data, seed: int) -> tuple[KnobEffect, ...]:
    def place(x: Array, z: Array) -> tuple[float, float, float] | None:
        if len(x) < MIN_EACH or _explain_narrow(x, z):
            return None
        at = locate_optimum(x, z, seed, DRAWS_EACH, GROUPS_EACH)
        return at.optimum, at.low, at.high

    return find_knob_effects(data.x, data.z, data.knobs, place)


def _fit(data: _Data, objective: str, unit: str, seed: int, draws: int, by_knob: bool) -> dict[str, Any]:
    at = locate_optimum(data.x, data.z, seed, draws)
    low, high = trim_interval(data.x, data.z, at.raised, at.optimum, at.low, at.high)
    best, grid, mean, sd, shift, scale, floor = at.best, at.grid, at.mean, at.sd, at.shift, at.scale, at.floor
    left, right = edges(data.x)
    at_left, at_right = float(np.mean(best <= left)), float(np.mean(best >= right))

    def natural(values: Array) -> Array:
        raw = (values * scale + shift) * (1 if OBJECTIVES[objective].maximize else -1)
        return np.exp(raw) if objective in LOGARITHMIC else raw

    band = np.sort([natural(mean - 1.645 * sd), natural(mean + 1.645 * sd)], axis=0)
    summary: dict[str, Any] = {
        "optimum": math.exp(at.optimum),
        "low": math.exp(low),
        "high": math.exp(high),
        "moved": _find_knob_effects(data, seed) if by_knob and not data.adaptive else (),
        "edge_share": at_left + at_right,
        "interior": at_left + at_right < EDGE,
    }
    curve = {"grid": np.exp(grid), "mean": natural(mean), "lower": band[0], "upper": band[1]}
    return {
        **summary,
        **{name: tuple(values.tolist()) for name, values in curve.items()},
        "value": float(curve["mean"][int(np.argmax(mean))]),
        "floor": None if floor is None else float(natural(np.array([(floor - shift) / scale]))[0]),
        "message": _message(data, summary, unit, "lower" if at_left >= at_right else "upper"),
    }


def _message(data: _Data, summary: dict[str, Any], unit: str, side: str) -> str:
    interval = f"90 % interval {summary['low']:.3g} to {summary['high']:.3g}"
    text = f"best noise {summary['optimum']:.3g}{'' if unit == '1' else f' {unit}'} ({interval})"
    if summary["interior"]:
        text += ", inside the tried range"
    else:
        text += f"; not clearly inside the tried range: {summary['edge_share']:.0%} of resampled optima lie at an edge"
        text += f", mostly the {side}: " + (
            "pairs at more noise were not viable"
            if side == "upper" and data.failed_beyond
            else f"widen the knobs towards {'less' if side == 'lower' else 'more'} noise"
        )
    for effect in summary["moved"]:
        text += f"; {effect.sentence}"
    if data.adaptive:
        text += f". An adaptive sampler ({', '.join(data.adaptive)}) chose the noises: the interval covers the draw of"
        text += " configurations, not the outcome of another search, and gives no verdict on the curve's shape"
    return text + "."
