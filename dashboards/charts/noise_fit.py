"""Figure of a measure against the noise, with fit and optimum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from dashboards.charts.axes import Window, make_log_axis, round_to, shorten, wrap_title
from dashboards.charts.chart import (
    Chart,
    Measure,
    describe,
    finish,
    frame_points,
    make_edge_traces,
    make_error_bars,
    make_figure,
    make_markers,
    sort_points,
    thin_points,
    write_caption,
)
from dashboards.charts.theme import BLUE, GREEN, GREY, ORANGE, VERMILLION
from dashboards.data.configurations import ConfigPoint
from sweeper.search.objectives import SPLIT_WORDS

if TYPE_CHECKING:
    from sweeper.analysis.regime import Regime

DRAWN = 1500
"""Maximum number of drawn configurations."""


def _add_curve(figure: go.Figure, regime: Regime, split: str) -> None:
    grid = [round_to(x) for x in regime.grid]
    bounds = [round_to(y) for y in regime.upper], [round_to(y) for y in regime.lower]
    figure.add_scatter(
        name="90 % band of the fit",
        x=grid + grid[::-1],
        y=bounds[0] + bounds[1][::-1],
        fill="toself",
        fillcolor="rgba(213, 94, 0, 0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )
    mean = [round_to(y) for y in regime.mean]
    line = {"color": VERMILLION, "width": 2.5}
    figure.add_scatter(name=f"fit to {split}", x=grid, y=mean, mode="lines", line=line, hoverinfo="skip")


def _add_optimum(figure: go.Figure, regime: Regime, view: Window) -> None:
    if regime.optimum is None:
        return
    ends = [view.low, view.high]
    if regime.low is not None and regime.high is not None:
        figure.add_scatter(
            name="optimum's 90 % interval",
            x=[regime.low, regime.low, regime.high, regime.high],
            y=[*ends, *ends[::-1]],
            fill="toself",
            fillcolor="rgba(0, 158, 115, 0.13)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    figure.add_scatter(
        name=f"optimum {shorten(regime.optimum)}",
        x=[regime.optimum] * 2,
        y=ends,
        mode="lines",
        line={"color": GREEN, "width": 2, "dash": "dash"},
        hoverinfo="skip",
    )


def _make_trace(name: str, group: Sequence[ConfigPoint], column: str, marker: dict[str, Any]) -> go.Scatter:
    estimates = [p.values[column] for p in group]
    return make_markers(
        name,
        [p.noise for p in group],
        [e.mean for e in estimates],
        [describe(p, column) for p in group],
        marker=marker,
        error_y=make_error_bars(estimates, marker["color"]),
    )


def draw_noise_fit(
    points: Sequence[ConfigPoint], measure: Measure, noise_label: str, title: str, regime: Regime | None = None
) -> Chart:
    """Draw a measure against the noise: points, fit and optimum, with the test scores of another split's measure.

    Args:
        points: One record per configuration with both columns of `measure`.
        measure: The measure.
        noise_label: Title of the noise axis.
        title: Heading of the chart.
        regime: Fit to draw; None draws only points.
    """
    view = frame_points([p for p in points if p.noise], measure)
    kept, notice = thin_points(points, measure.column, measure.maximize, DRAWN)
    drawn = [points[i] for i in sorted(kept)]
    fitted = sort_points(drawn, measure.column, view)
    split = SPLIT_WORDS.get(measure.column.rpartition("_")[2], "value")
    figure = make_figure()
    if regime is not None and len(regime.grid) > 1:
        _add_curve(figure, regime, split)
    if regime is not None:
        _add_optimum(figure, regime, view)
    if measure.column != measure.test_column:
        test = sort_points(drawn, measure.test_column, view).inside
        hollow = {"size": 7, "color": ORANGE, "symbol": "circle-open"}
        figure.add_trace(_make_trace("test", test, measure.test_column, hollow))
    full = {"size": 8, "color": BLUE, "line": {"width": 0.6, "color": GREY}}
    figure.add_trace(_make_trace(split, fitted.inside, measure.column, full))
    for trace in make_edge_traces(fitted, measure.column, view, lambda p: p.noise, legend=True):
        figure.add_trace(trace)
    placed = [p.noise for p in points if p.noise] + list(regime.grid if regime is not None else ())
    figure.update_xaxes(make_log_axis(placed, noise_label))
    figure.update_yaxes(title={"text": wrap_title(measure.label)}, range=[view.low, view.high])
    if measure.share:
        figure.update_yaxes(tickformat=".1%")
    if measure.anchor == 0.0:
        figure.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
    every = sort_points(points, measure.column, view)
    text = " ".join(filter(None, (write_caption(every, view), notice)))
    if regime is not None and regime.floor is not None and every.clipped:
        text += f" The fit counts values worse than {shorten(regime.floor)} as {shorten(regime.floor)}."
    return Chart(measure.key, title, text, finish(figure))
