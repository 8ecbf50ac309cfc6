"""One measure against the noise, with its fit and optimum: records in, Plotly figures out. No files, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from dashboards.charts.axes import Window, log_axis, rounded, short, wrapped
from dashboards.charts.chart import (
    Chart,
    Measure,
    caption,
    describe,
    edge_traces,
    error_bars,
    figure,
    finish,
    frame,
    markers,
    sort_out,
    thinned,
)
from dashboards.charts.theme import BLUE, GREEN, GREY, ORANGE, VERMILLION
from dashboards.data.configurations import ConfigPoint
from sweeper.search.objectives import SPLIT_WORDS

if TYPE_CHECKING:
    from sweeper.analysis.regime import Regime

DRAWN = 1500
"""Configurations that are drawn at most."""


def _curve(shown: go.Figure, regime: Regime, split: str) -> None:
    grid = [rounded(x) for x in regime.grid]
    bounds = [rounded(y) for y in regime.upper], [rounded(y) for y in regime.lower]
    shown.add_scatter(
        name="90 % band of the fit",
        x=grid + grid[::-1],
        y=bounds[0] + bounds[1][::-1],
        fill="toself",
        fillcolor="rgba(213, 94, 0, 0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
    )
    mean = [rounded(y) for y in regime.mean]
    line = {"color": VERMILLION, "width": 2.5}
    shown.add_scatter(name=f"fit to {split}", x=grid, y=mean, mode="lines", line=line, hoverinfo="skip")


def _optimum(shown: go.Figure, regime: Regime, view: Window) -> None:
    if regime.optimum is None:
        return
    ends = [view.low, view.high]
    if regime.low is not None and regime.high is not None:
        shown.add_scatter(
            name="optimum's 90 % interval",
            x=[regime.low, regime.low, regime.high, regime.high],
            y=[*ends, *ends[::-1]],
            fill="toself",
            fillcolor="rgba(0, 158, 115, 0.13)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    shown.add_scatter(
        name=f"optimum {short(regime.optimum)}",
        x=[regime.optimum] * 2,
        y=ends,
        mode="lines",
        line={"color": GREEN, "width": 2, "dash": "dash"},
        hoverinfo="skip",
    )


def _scored(name: str, group: Sequence[ConfigPoint], column: str, marker: dict[str, Any]) -> go.Scatter:
    found = [p.values[column] for p in group]
    return markers(
        name,
        [p.noise for p in group],
        [e.mean for e in found],
        [describe(p, column) for p in group],
        marker=marker,
        error_y=error_bars(found, marker["color"]),
    )


def noise_chart(
    points: Sequence[ConfigPoint], measure: Measure, noise_label: str, title: str, regime: Regime | None = None
) -> Chart:
    """Draw one measure against the noise: its points with fit and optimum, test points beside those of another split.

    Args:
        points: One record per configuration with both columns of `measure`.
        measure: What is drawn.
        noise_label: Title of the noise axis.
        title: Heading of the chart.
        regime: Fit to draw; None draws the points alone.
    """
    view = frame([p for p in points if p.noise], measure)
    kept, said = thinned(points, measure.column, measure.maximize, DRAWN)
    drawn = [points[i] for i in sorted(kept)]
    own = sort_out(drawn, measure.column, view)
    split = SPLIT_WORDS.get(measure.column.rpartition("_")[2], "value")
    shown = figure()
    if regime is not None and len(regime.grid) > 1:
        _curve(shown, regime, split)
    if regime is not None:
        _optimum(shown, regime, view)
    if measure.column != measure.test_column:
        test = sort_out(drawn, measure.test_column, view).inside
        hollow = {"size": 7, "color": ORANGE, "symbol": "circle-open"}
        shown.add_trace(_scored("test", test, measure.test_column, hollow))
    full = {"size": 8, "color": BLUE, "line": {"width": 0.6, "color": GREY}}
    shown.add_trace(_scored(split, own.inside, measure.column, full))
    for trace in edge_traces(own, measure.column, view, lambda p: p.noise, legend=True):
        shown.add_trace(trace)
    placed = [p.noise for p in points if p.noise] + list(regime.grid if regime is not None else ())
    shown.update_xaxes(log_axis(placed, noise_label))
    shown.update_yaxes(title={"text": wrapped(measure.label)}, range=[view.low, view.high])
    if measure.share:
        shown.update_yaxes(tickformat=".1%")
    if measure.anchor == 0.0:
        shown.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
    every = sort_out(points, measure.column, view)
    text = " ".join(filter(None, (caption(every, view), said)))
    if regime is not None and regime.floor is not None and every.clipped:
        text += f" The fit counts what is worse than {short(regime.floor)} as {short(regime.floor)}."
    return Chart(measure.key, title, text, finish(shown))
