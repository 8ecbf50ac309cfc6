"""Figure of a measure against the noise, with fit and optimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from dashboards.charts.alignment import find_support, keep_near, split_curve
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
from dashboards.charts.theme import BLUE, GREEN, GREY, ORANGE, PINK, VERMILLION, fade
from dashboards.data.configurations import ConfigPoint
from sweeper.search.objectives import SPLIT_WORDS

if TYPE_CHECKING:
    from sweeper.analysis.regime import Regime

DRAWN = 1500
"""Maximum number of drawn configurations."""
_MAP_ALONE = (
    "The fit rests on the map, whose knobs no result chose. The search tunes the other knobs, so its points lie beyond "
    "the fit."
)


def _add_curve(figure: go.Figure, regime: Regime, split: str, places: Sequence[float]) -> None:
    """Draw the fit and its band; where no data lie, only a faint dotted line."""
    held = find_support(np.log(regime.grid), np.log(places))
    grid = [round_to(x) for x in regime.grid]
    for start, end in _find_runs(held):
        figure.add_scatter(
            name="90 % band of the fit",
            x=grid[start:end] + grid[start:end][::-1],
            y=[round_to(y) for y in (*regime.upper[start:end], *regime.lower[start:end][::-1])],
            fill="toself",
            fillcolor=fade(VERMILLION, 0.16),
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    for side in (regime.upper, regime.lower):
        line = {"color": VERMILLION, "width": 1}
        figure.add_scatter(
            name="end of the band", x=grid, y=keep_near(side, held), mode="lines", line=line, hoverinfo="skip"
        )
    fit = split_curve(f"fit to {split}", regime.grid, regime.mean, held, {"color": VERMILLION, "width": 3})
    figure.add_traces(fit)


def _find_runs(held: Sequence[bool]) -> list[tuple[int, int]]:
    """Return start and end of the runs of True."""
    edges = np.flatnonzero(np.diff([False, *held, False]))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _add_optimum(figure: go.Figure, regime: Regime, view: Window) -> None:
    """Draw the best noise with its interval, and name both above the figure."""
    if regime.optimum is None:
        return
    ends, text = [view.low, view.high], f"best noise {shorten(regime.optimum)}"
    if regime.low is not None and regime.high is not None:
        text = f"<b>{text}</b><br>90 % interval {shorten(regime.low)} to {shorten(regime.high)}"
        figure.add_scatter(
            name="optimum's 90 % interval",
            x=[regime.low, regime.low, regime.high, regime.high],
            y=[*ends, *ends[::-1]],
            fill="toself",
            fillcolor=fade(GREEN, 0.13),
            line={"width": 1, "color": GREEN, "dash": "dot"},
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
    label_above(figure, regime.optimum, regime.grid, text)


def label_above(figure: go.Figure, place: float, grid: Sequence[float], text: str) -> None:
    """Write a text above the figure at a place of its log axis, inside the frame that spans `grid`."""
    low, high = math.log10(grid[0]), math.log10(grid[-1])
    at = math.log10(place)
    share = 0.5 if high <= low else (at - low) / (high - low)
    # left of the frame there is room for the text, right of it there is none
    anchor = "left" if share < 0.1 else "right" if share > 0.4 else "center"
    look = {"yref": "paper", "yanchor": "bottom", "showarrow": False, "font": {"size": 12.5}, "borderpad": 1}
    figure.add_annotation(x=at, y=1.0, text=text, xanchor=anchor, **look)
    figure.update_layout(margin={"t": 46}, showlegend=False)


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


def _divide(
    points: Sequence[ConfigPoint], split: str, apart: bool
) -> list[tuple[str, str, str, Sequence[ConfigPoint]]]:
    """Return the traces as name, colour, symbol and points; `apart` divides designed points from the others."""
    if not apart:
        return [(split, BLUE, "circle", points)]
    tuned = [p for p in points if not p.designed]
    return [
        (f"{split}, map", BLUE, "circle", [p for p in points if p.designed]),
        (f"{split}, search", PINK, "square", tuned),
    ]


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
    figure = make_figure(showlegend=False)
    apart = regime is not None and not regime.adaptive and any(p.designed != points[0].designed for p in points)
    if regime is not None and len(regime.grid) > 1:
        scored = [p for p in points if p.noise and p.ok and measure.column in p.values]
        _add_curve(figure, regime, split, [p.noise for p in scored if p.noise and (p.designed or not apart)])
    if regime is not None:
        _add_optimum(figure, regime, view)
    if measure.column != measure.test_column:
        test = sort_points(drawn, measure.test_column, view).inside
        hollow = {"size": 7, "color": ORANGE, "symbol": "circle-open"}
        figure.add_trace(_make_trace("test", test, measure.test_column, hollow))
    for name, colour, symbol, group in _divide(fitted.inside, split, apart):
        full = {"size": 8, "color": colour, "symbol": symbol, "line": {"width": 0.6, "color": GREY}}
        figure.add_trace(_make_trace(name, group, measure.column, full))
    for trace in make_edge_traces(fitted, measure.column, view, lambda p: p.noise):
        figure.add_trace(trace)
    placed = [p.noise for p in points if p.noise] + list(regime.grid if regime is not None else ())
    figure.update_xaxes(make_log_axis(placed, noise_label))
    figure.update_yaxes(title={"text": wrap_title(measure.label)}, range=[view.low, view.high])
    if measure.share:
        figure.update_yaxes(tickformat=".1%")
    if measure.anchor == 0.0:
        figure.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
    every = sort_points(points, measure.column, view)
    text = f"● {split}" + (" of the map, ■ of pilots, search and fresh pairs" if apart else "")
    text += ", ○ test" if measure.column != measure.test_column else ""
    if regime is not None and len(regime.grid) > 1:
        text += "; line: fit with its 90 % band, dotted where no data lie"
    text = " ".join(filter(None, (f"{text}.", write_caption(every, view), notice)))
    if regime is not None and regime.floor is not None and every.clipped:
        text += f" The fit counts values worse than {shorten(regime.floor)} as {shorten(regime.floor)}."
    if apart:
        text += f" {_MAP_ALONE}"
    return Chart(measure.key, title, text, finish(figure))
