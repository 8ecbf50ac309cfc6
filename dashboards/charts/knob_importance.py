"""Figures of the knobs: how much of the score's variance each explains, and a contour of the score over two of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.charts.axes import round_to, shorten, wrap_title
from dashboards.charts.chart import Chart, Measure, describe, finish, frame_points, make_figure, make_markers
from dashboards.charts.knob_axes import Axis, make_axis, read_knob, scale_places, varies
from dashboards.charts.theme import BLUE, GREY, VERMILLION
from dashboards.data.configurations import Array, ConfigPoint, list_knobs
from sweeper.analysis.curve.knob_importance import measure_shares
from sweeper.formatting import name_knob, pluralize

FEWEST = 12
"""Both figures need this many viable configurations."""
MOST, MOST_IN_FOREST = 400, 200
"""Most configurations of the contour and of the forest, whose time grows with the square of their number."""
_GRID = 36
_SURE, _NEAR = 0.75, 0.25
"""The contour is drawn where the model's sd is below this share of its sd without data, and a configuration lies within
this share of the axes."""


@dataclass(frozen=True)
class Importance:
    """Share of the variance of the score that each knob explains, largest first.

    Attributes:
        shares: Knob and share.
        n: Number of viable configurations in the forest.
        total: Number of viable configurations.
    """

    shares: tuple[tuple[str, float], ...]
    n: int
    total: int


def _list_viable(points: Sequence[ConfigPoint], measure: Measure) -> list[ConfigPoint]:
    return [p for p in points if p.ok and measure.column in p.values]


def _read_viable(points: Sequence[ConfigPoint], measure: Measure, most: int = MOST) -> tuple[list[ConfigPoint], Array]:
    """Return at most `most` viable configurations with a score, and the scores, raised to the frame's cut."""
    view = frame_points(points, measure)
    viable = _list_viable(points, measure)
    viable = viable[:: -(-len(viable) // most)] if viable else []
    score = np.array([p.values[measure.column].mean for p in viable])
    return viable, np.maximum(score, view.cut) if measure.maximize else np.minimum(score, view.cut)


def measure_importance(points: Sequence[ConfigPoint], measure: Measure) -> Importance | None:
    """Return the importance of the knobs that vary; None for fewer than `FEWEST` configurations or two knobs."""
    viable, score = _read_viable(points, measure, MOST_IN_FOREST)
    places = _place_knobs(viable)
    if len(viable) < FEWEST or len(places) < 2 or not np.ptp(score) > 0:
        return None
    found = measure_shares(places, score)
    return Importance(
        tuple(sorted(found.items(), key=lambda item: -item[1])), len(viable), len(_list_viable(points, measure))
    )


def _place_knobs(points: Sequence[ConfigPoint]) -> dict[str, Array]:
    """Return the positions on the axes of the knobs that vary; a knob that lacks a position is left out."""
    places: dict[str, Array] = {}
    for name in list_knobs(points):
        values = read_knob(points, name)
        if len(values) and varies(values):
            axis = make_axis(name, values)
            place = scale_places(axis, axis.place(values))
            if np.isfinite(place).all() and np.ptp(place) > 0:
                places[name] = place
    return places


def draw_importance(importance: Importance, label: str, kind: str = "", inert: str = "") -> Chart:
    """Draw one bar per knob with its share of the variance of a score.

    Args:
        importance: The shares.
        label: Name of the score.
        kind: What the trials of the configurations are, such as `designed trial`; empty for all trials.
        inert: Sentence on knobs that the training calls too weak to act.
    """
    names = [name_knob(k).label for k, _ in importance.shares]
    shares = [round_to(100 * v, 3) for _, v in importance.shares]
    figure = make_figure(showlegend=False)
    figure.add_bar(
        x=shares,
        y=names,
        orientation="h",
        marker={"color": BLUE},
        text=[f"{v:.0f} %" for v in shares if v is not None],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.update_xaxes(
        title={"text": wrap_title("share of the explained variance [%]")}, range=[0, 1.15 * max(shares[0] or 1, 1)]
    )
    figure.update_yaxes(autorange="reversed")
    many = pluralize(importance.n, "viable configuration")
    of = f"{kind}s" if kind else ""
    if importance.n < importance.total:
        of = f"{importance.total:,}{f' of {of}' if of else ''}, evenly spread"
    words = (
        f"Share of the variance of {label} that each knob explains alone, by functional ANOVA over a random forest of "
        f"{many}{f' of {of}' if of else ''}. Collapses count as the edge of the frame."
    )
    if kind:
        words += " The other trials enter no share: there, knobs vary together since results chose them."
    words += f" {inert}" if inert else ""
    return Chart("importance", "Importance of the knobs", words, finish(figure))


def draw_contour(
    points: Sequence[ConfigPoint], measure: Measure, names: tuple[str, str], answer: str | None = None
) -> Chart | None:
    """Draw the score over two knobs, as a Gaussian process sees it that takes the others as scatter.

    Args:
        points: One record per configuration.
        measure: The score.
        names: The knobs.
        answer: The configuration that the answer gives; it gets the star.

    Returns:
        The chart; None for fewer than `FEWEST` viable configurations with both knobs.
    """
    viable, score = _read_viable(points, measure)
    places = _place_knobs(viable)
    if len(viable) < FEWEST or not np.ptp(score) > 0 or any(name not in places for name in names):
        return None
    ends = {n: (float(places[n].min()), float(np.ptp(places[n]))) for n in names}
    unit = np.column_stack([(places[n] - ends[n][0]) / ends[n][1] for n in names])
    steps = np.linspace(0.0, 1.0, _GRID)
    grid = np.array([(a, b) for b in steps for a in steps])
    mean, sure = _fit_surface(unit, score, grid)
    heights = [[round_to(float(v), 4) if s else None for v, s in zip(*row, strict=True)]
               for row in zip(mean.reshape(_GRID, _GRID), sure.reshape(_GRID, _GRID), strict=True)]  # fmt: skip
    axes = {n: make_axis(n, read_knob(viable, n)) for n in names}
    figure = make_figure(showlegend=False)
    if sure.any():
        figure.add_contour(
            x=_unscale(axes[names[0]], ends[names[0]], steps),
            y=_unscale(axes[names[1]], ends[names[1]], steps),
            z=heights,
            colorscale="Viridis",
            reversescale=not measure.maximize,
            ncontours=14,
            contours={"showlines": True},
            line={"width": 0.5, "color": GREY},
            colorbar={"thickness": 12, "outlinewidth": 0, "title": {"text": measure.label, "side": "right"}},
            hovertemplate="%{z:.3g}<extra></extra>",
            connectgaps=False,
        )
    starred = [p for p in viable if p.config == answer]
    for name, group, marker in (
        ("configuration", [p for p in viable if p.config != answer], {"size": 6, "color": GREY}),
        ("the answer's", starred, {"size": 15, "symbol": "star", "color": VERMILLION}),
    ):
        if not group:
            continue
        x, y = (axes[n].place(read_knob(group, n)).tolist() for n in names)
        text = [describe(p, measure.column) for p in group]
        figure.add_trace(make_markers(name, x, y, text, marker={**marker, "line": {"width": 1, "color": "#ffffff"}}))
    figure.update_xaxes(dict(axes[names[0]].layout))
    figure.update_yaxes(dict(axes[names[1]].layout))
    others = [name_knob(n).name for n in places if n not in names]
    words = f"Mean of a Gaussian process over both knobs; {', '.join(others) or 'nothing else'} "
    words += "count as scatter." if len(others) > 1 else "counts as scatter."
    words += f" ★ the answer's configuration ({shorten(starred[0].values[measure.column].mean)})." if starred else ""
    words += " It rests on all viable configurations, also where results chose them. Blank where no data lie."
    title = f"{name_knob(names[0]).label} and {name_knob(names[1]).label}"
    return Chart("contour", title[0].upper() + title[1:], words, finish(figure))


def _unscale(axis: Axis, ends: tuple[float, float], steps: Array) -> list[float | None]:
    drawn = ends[0] + ends[1] * steps
    return [round_to(float(v), 5) for v in (10**drawn if axis.layout.get("type") == "log" else drawn)]


def _fit_surface(unit: Array, score: Array, grid: Array) -> tuple[Array, Array]:
    """Return the mean of a Gaussian process at `grid`, and where it knows enough to draw it."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from threadpoolctl import threadpool_limits

    lengths: Any = [0.4, 0.4]  # the stubs know a single length only
    signal = ConstantKernel(1.0, (0.05, 10.0)) * Matern(lengths, (0.15, 3.0), nu=2.5)
    process = GaussianProcessRegressor(signal + WhiteKernel(0.3, (1e-3, 2.0)), normalize_y=True, random_state=0)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # a hyperparameter at its bound is no error here
        process.fit(unit, score)
        fitted: Any = process.kernel_
        prediction: Any = process.predict(grid, return_std=True)
    mean, sd = prediction
    scale = float(np.std(score)) or 1.0
    # the predicted sd includes the scatter of a configuration
    known = np.sqrt(np.maximum((sd / scale) ** 2 - fitted.k2.noise_level, 0.0))
    gaps = np.sqrt(((grid[:, None, :] - unit[None, :, :]) ** 2).sum(axis=2)).min(axis=1)
    return mean, (known < _SURE * math.sqrt(fitted.k1.k1.constant_value)) & (gaps < _NEAR)
