"""How well one quantity alone orders the scores: leave-one-configuration-out R² of a smooth curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dashboards.charts.knob_axes import axis_of, on_scale, varies
from dashboards.data.configurations import KNOBS, Array
from sweeper.analysis.evidence.cells import collect, raise_tail, subsample
from sweeper.analysis.evidence.exponents import MIN_CONFIGS
from sweeper.analysis.evidence.linear import Basis, design_matrix, least_squares, predict_left_out
from sweeper.analysis.evidence.ranking import list_definitions, select_common
from sweeper.formatting import name_knob
from sweeper.search.objectives import Objective
from trainables.noise import NOISE

# columns of a drawn curve; more of them than the scores bear out would show wiggles
FREEDOMS = (1, 2, 3, 4, 5)
FEWEST = 8
MOST = 1500


@dataclass(frozen=True)
class Alignment:
    """One axis and how well a smooth curve along it predicts a configuration that was left out.

    Attributes:
        name: A knob or a definition of noise.
        label: For people.
        r2: 1 is perfect, 0 no better than the mean, below 0 worse.
        n: Configurations.
        beyond: How many of them lie beyond the others and are predicted at the nearest end.
        is_noise: Whether it is a definition of noise.
    """

    name: str
    label: str
    r2: float
    n: int
    beyond: int
    is_noise: bool


def ranking(trials: pa.Table, goal: Objective) -> list[Alignment]:
    """Return the R² of each noise and each knob alone, the best first; empty below `MIN_CONFIGS` configurations.

    As `sweeper.analysis.evidence.ranking.rank` does it: viable configurations that have all noises, the bad tail
    raised to a floor, a natural spline of 5 columns, each configuration predicted by a fit without it.

    Args:
        trials: The trials table.
        goal: What is explained, on its split.
    """
    cells = raise_tail(subsample(collect(trials, goal)))
    names = list_definitions(cells)
    own = select_common(cells, names)
    if len(own) < MIN_CONFIGS or np.ptp(own.z) <= 0:
        return []

    def aligned(name: str, label: str, x: Array, is_noise: bool) -> Alignment:
        found = predict_left_out(own.z, own.size, [x])
        return Alignment(name, label, found.r2, len(own), int(found.beyond.sum()), is_noise)

    found = [aligned(n, f"{n}: {NOISE[n].formula}", own.noise[n], True) for n in names]
    for name in (k for k in KNOBS if k in own.knobs and varies(own.knobs[k])):
        axis = axis_of(name, own.knobs[name])
        x = on_scale(axis, axis.place(own.knobs[name]))
        if np.isfinite(x).all():
            found.append(aligned(name, name_knob(name).label, x, False))
    return sorted(found, key=lambda a: -a.r2)


@dataclass(frozen=True)
class Smooth:
    """A smooth curve along one axis: its basis, of the freedom with the smallest left-out errors, and the residuals."""

    basis: Basis
    residual: Array


def fit(x: Array, y: Array) -> Smooth:
    """Fit a smooth curve along `x` to `y`, at least two points.

    Source: left-out errors: Hastie, Tibshirani & Friedman 2009, eq. 7.64.
    """
    tried: list[tuple[float, Basis, Array]] = []
    for freedom in FREEDOMS:
        basis = Basis.of(x, freedom)
        error = float(predict_left_out(y, np.ones(len(y)), [x], freedom=freedom).errors.sum())
        tried.append((error, basis, least_squares(design_matrix(basis(x)), y).residuals))
    _, basis, residual = min(tried, key=lambda t: t[0])
    return Smooth(basis, residual)


def smooth(x: Array, y: Array, points: int = 60) -> tuple[Array, Array]:
    """Return the smooth curve along `x` as places and heights; over up to four levels, at these alone.

    Above `MOST` points it is fitted to so many, evenly spread over their order.
    """
    if len(x) > MOST:
        kept = np.argsort(x, kind="stable")[np.linspace(0, len(x) - 1, MOST).round().astype(int)]
        x, y = x[kept], y[kept]
    levels, basis = np.unique(x), fit(x, y).basis
    places = levels if len(levels) <= 4 else np.linspace(levels[0], levels[-1], points)
    columns, at = (np.column_stack([np.ones(len(v)), basis(v)]) for v in (x, places))
    return places, at @ np.linalg.lstsq(columns, y, rcond=None)[0]
