"""Leave-one-configuration-out R² of a smooth curve: how well one quantity alone predicts the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dashboards.charts.knob_axes import make_axis, scale_places, varies
from dashboards.data.configurations import KNOBS, Array
from sweeper.analysis.evidence.cells import collect, raise_tail, subsample
from sweeper.analysis.evidence.exponents import MIN_CONFIGS
from sweeper.analysis.evidence.linear import Basis, design_matrix, least_squares, predict_left_out
from sweeper.analysis.evidence.ranking import list_definitions, select_common
from sweeper.analysis.stages.designed import mark_proxy
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


def rank_orderings(trials: pa.Table, goal: Objective) -> list[Alignment]:
    """Return the R² of every noise and knob alone, best first; empty below `MIN_CONFIGS` configurations.

    The method is that of `sweeper.analysis.evidence.ranking.rank`: viable configurations with all noises, a floor for
    the bad tail, a natural spline of 5 columns, and a fit without the predicted configuration.

    Args:
        trials: The trials table.
        goal: The objective, on its split.
    """
    short = mark_proxy(trials)
    trials = trials if short.all() else trials.filter(pa.array(~short))
    cells = raise_tail(subsample(collect(trials, goal)))
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


def smooth_curve(x: Array, y: Array, points: int = 60) -> tuple[Array, Array]:
    """Return places and heights of the smooth curve along `x`; with up to four distinct `x`, only at these.

    With more than `MOST` points, `MOST` of them enter the fit, evenly spread over their order.
    """
    if len(x) > MOST:
        kept = np.argsort(x, kind="stable")[np.linspace(0, len(x) - 1, MOST).round().astype(int)]
        x, y = x[kept], y[kept]
    levels, basis = np.unique(x), fit_curve(x, y).basis
    places = levels if len(levels) <= 4 else np.linspace(levels[0], levels[-1], points)
    columns, at = (np.column_stack([np.ones(len(v)), basis(v)]) for v in (x, places))
    return places, at @ np.linalg.lstsq(columns, y, rcond=None)[0]
