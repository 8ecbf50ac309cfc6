"""Smooth curves along one axis: how well they predict left-out scores, and where data hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dashboards.charts.axes import round_to
from dashboards.charts.knob_axes import Axis, make_axis, scale_places, varies
from dashboards.charts.theme import fade
from dashboards.data.configurations import KNOBS, Array
from sweeper.analysis.evidence.cells import collect, raise_tail, subsample
from sweeper.analysis.evidence.exponents import MIN_CONFIGS
from sweeper.analysis.evidence.linear import Basis, design_matrix, least_squares, predict_left_out
from sweeper.analysis.evidence.ranking import list_definitions, select_common
from sweeper.analysis.stages.designed import select_designed
from sweeper.formatting import name_knob
from sweeper.search.objectives import Objective
from trainables.noise import NOISE

# numbers of columns to try for a drawn curve; more would draw wiggles
FREEDOMS = (1, 2, 3, 4, 5)
FEWEST = 8
MOST = 1500


@dataclass(frozen=True)
class Alignment:
    """Prediction of left-out configurations by a smooth curve along one axis.

    Attributes:
        name: A knob or a definition of noise.
        label: Display name.
        r2: 1 is perfect, 0 as good as the mean, below 0 worse.
        n: Number of configurations.
        beyond: Number beyond the range of the others, predicted by its nearest end.
        is_noise: Whether the axis is a definition of noise.
    """

    name: str
    label: str
    r2: float
    n: int
    beyond: int
    is_noise: bool


def rank_orderings(trials: pa.Table, goal: Objective, noise: str) -> list[Alignment]:
    """Return the R² of every noise and knob alone, best first; empty below `MIN_CONFIGS` configurations.

    Rows and method are those of `sweeper.analysis.evidence.ranking.rank`: viable configurations of the designed trials
    with all noises, a floor for the bad tail, a natural spline of 5 columns, and a fit without the predicted
    configuration.

    Args:
        trials: The trials table.
        goal: The objective, on its split.
        noise: Name of the shown noise, which decides whether there are enough designed trials.
    """
    cells = raise_tail(subsample(collect(select_designed(trials, noise), goal)))
    names = list_definitions(cells)
    common = select_common(cells, names)
    if len(common) < MIN_CONFIGS or np.ptp(common.z) <= 0:
        return []

    def align(name: str, label: str, x: Array, is_noise: bool) -> Alignment:
        left_out = predict_left_out(common.z, common.size, [x])
        return Alignment(name, label, left_out.r2, len(common), int(left_out.beyond.sum()), is_noise)

    alignments = [align(n, f"{n}: {NOISE[n].formula}", common.noise[n], True) for n in names]
    for name in (k for k in KNOBS if k in common.knobs and varies(common.knobs[k])):
        axis = make_axis(name, common.knobs[name])
        x = scale_places(axis, axis.place(common.knobs[name]))
        if np.isfinite(x).all():
            alignments.append(align(name, name_knob(name).label, x, False))
    return sorted(alignments, key=lambda a: -a.r2)


@dataclass(frozen=True)
class Smooth:
    """A smooth curve along one axis: residuals, and the basis with the least left-out error."""

    basis: Basis
    residual: Array


def fit_curve(x: Array, y: Array) -> Smooth:
    """Fit a smooth curve along `x` to `y`, at least two points.

    Source of the left-out errors: Hastie, Tibshirani & Friedman 2009, eq. 7.64.
    """
    tried: list[tuple[float, Basis, Array]] = []
    for freedom in FREEDOMS:
        basis = Basis.of(x, freedom)
        error = float(predict_left_out(y, np.ones(len(y)), [x], freedom=freedom).errors.sum())
        tried.append((error, basis, least_squares(design_matrix(basis(x)), y).residuals))
    _, basis, residual = min(tried, key=lambda t: t[0])
    return Smooth(basis, residual)


def find_support(grid: Array, places: Array) -> list[bool]:
    """Return whether data lie near each place of an ascending grid, so that a curve there rests on them.

    Near means 6 % of the grid's range, or three quarters of the usual gap between the data if that is wider.

    Args:
        grid: Places of the curve as drawn lengths, shape (n,): logarithms on a log axis.
        places: Places of the data, in the same unit.
    """
    data = np.unique(places)
    if len(data) < 2:
        return [True] * len(grid)
    reach = max(0.06 * float(grid[-1] - grid[0]), 0.75 * float(np.median(np.diff(data))))
    return (np.abs(grid[:, None] - data[None, :]).min(axis=1) <= reach).tolist()


def split_curve(
    name: str, x: Sequence[float], y: Sequence[float], held: Sequence[bool], line: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the traces of a curve: `name` where data hold it, and a faint dotted line elsewhere.

    Args:
        name: Name of the curve.
        x: Places, ascending.
        y: Heights.
        held: Whether data lie near each place, from `find_support`.
        line: Plotly's settings of the line, with its colour and width.
    """
    faint = {"color": fade(line["color"], 0.45), "width": min(1.5, line["width"]), "dash": "dot"}
    look = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False, "x": list(map(round_to, x))}
    parts = ((f"{name} without data nearby", [not h for h in held], faint), (name, held, dict(line)))
    return [{**look, "name": n, "y": keep_near(y, kept), "line": style} for n, kept, style in parts if any(kept)]


def keep_near(values: Sequence[float], kept: Sequence[bool]) -> list[float | None]:
    """Return the values at kept places and their neighbours, with gaps elsewhere."""
    n = len(kept)
    near = [kept[i] or (i > 0 and kept[i - 1]) or (i + 1 < n and kept[i + 1]) for i in range(n)]
    return [round_to(v) if k else None for v, k in zip(values, near, strict=True)]


DOTTED = "Curves are dotted where no data lie."


@dataclass(frozen=True)
class Curve:
    """A smooth curve along an axis, as drawn lengths.

    Attributes:
        places, heights: Its points, ascending, shape (n,).
        held: Whether data lie near each point.
    """

    places: Array
    heights: Array
    held: Sequence[bool]


def smooth_curve(x: Array, y: Array, points: int = 60) -> Curve:
    """Return the smooth curve along `x`; with up to four distinct `x`, only at these.

    With more than `MOST` points, `MOST` of them enter the fit, evenly spread over their order.
    """
    held_by = x
    if len(x) > MOST:
        kept = np.argsort(x, kind="stable")[np.linspace(0, len(x) - 1, MOST).round().astype(int)]
        x, y = x[kept], y[kept]
    levels, basis = np.unique(x), fit_curve(x, y).basis
    places = levels if len(levels) <= 4 else np.linspace(levels[0], levels[-1], points)
    columns, at = (np.column_stack([np.ones(len(v)), basis(v)]) for v in (x, places))
    heights = at @ np.linalg.lstsq(columns, y, rcond=None)[0]
    return Curve(places, heights, find_support(places, held_by))


def draw_curve(curve: Curve, axis: Axis, line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the traces of a smooth curve on an axis, see `split_curve`."""
    places = 10**curve.places if axis.layout.get("type") == "log" else curve.places
    return split_curve("smooth curve", places.tolist(), curve.heights.tolist(), curve.held, line)
