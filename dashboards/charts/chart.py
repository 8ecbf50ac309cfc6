"""Parts of every figure: charts, panels, markers, hover texts, and points outside the frame."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import plotly.graph_objects as go

from dashboards.charts.axes import Window, fit_window, round_to, shorten, wrap_title
from dashboards.charts.theme import BLUE, GREY
from dashboards.data.configurations import ConfigPoint, Estimate
from dashboards.data.words import name_column
from sweeper.formatting import name_knob, pluralize

HOVER_WIDTH = 56
LEAST_WIDTH = 640
"""Least width in pixels of a figure with many texts side by side."""
SYMBOLS = {
    "diverged": "x",
    "not_viable": "diamond",
    "out_of_memory": "hourglass",
    "pruned": "pentagon",
    "failed": "cross",
}
MARKS = {
    "diverged": "✖ diverged",
    "not_viable": "◆ not viable",
    "out_of_memory": "⧗ out of memory",
    "pruned": "⬟ pruned",
    "failed": "✚ failed",
    "ok": "□ no value",
}


@dataclass(frozen=True)
class Measure:
    """The quantity of a figure: the fitted column, the test column beside it, label and direction."""

    key: str
    column: str
    test_column: str
    label: str
    maximize: bool
    anchor: float | None

    @property
    def share(self) -> bool:
        """Whether it is drawn as a percentage."""
        return "accuracy" in self.column


@dataclass(frozen=True)
class Chart:
    """A figure of the page with title and caption.

    Attributes:
        key: Identifier on the page.
        title: Heading.
        caption: What the figure shows and leaves out.
        figure: The Plotly figure, without a title.
        height: Height in pixels.
        wide: Whether it takes the full width of the page.
        folded: Whether it shows its title only until the reader opens it.
        least_width: Least width in pixels: on a narrower screen the card scrolls; 0 for any width.
    """

    key: str
    title: str
    caption: str
    figure: go.Figure
    height: int = 430
    wide: bool = False
    folded: bool = False
    least_width: int = 0


def arrange(charts: Sequence[Chart]) -> list[Chart]:
    """Return the charts in rows: two narrow ones get the same height, a single one the full width."""
    rows: list[Chart] = []
    row: Chart | None = None
    for chart in charts:
        if chart.wide:
            rows += [replace(row, wide=True)] if row else []
            rows, row = [*rows, chart], None
        elif row is not None:
            height = max(row.height, chart.height)
            rows, row = [*rows, replace(row, height=height), replace(chart, height=height)], None
        else:
            row = chart
    return rows + ([replace(row, wide=True)] if row else [])


def make_figure(**layout: Any) -> go.Figure:
    """Return an empty figure in the page's style; the page's theme sets its colours."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        autosize=True,
        margin={"l": 70, "r": 16, "t": 16, "b": 56},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hovermode="closest",
        **layout,
    )
    return figure


def finish(figure: go.Figure) -> go.Figure:
    """Style the axes of a figure: no zero line, ticks outside, room for the title."""
    figure.update_xaxes(zeroline=False, ticks="outside", ticklen=4, automargin=True, title_standoff=8)
    figure.update_yaxes(zeroline=False, ticks="outside", ticklen=4, automargin=True, title_standoff=8)
    return figure


def describe(point: ConfigPoint, column: str) -> str:
    """Return the hover text of a configuration, as Plotly markup."""
    estimate = point.values.get(column)
    name = f"trial {point.number}" if point.number is not None else point.digests[0]
    lines = [f"<b>{escape(name)}</b>"]
    if estimate is not None:
        error = (
            f" ± {shorten(estimate.error, 2)} ({pluralize(estimate.n, 'repeat')})" if estimate.error is not None else ""
        )
        lines.append(f"{escape(name_column(column))} {shorten(estimate.mean, 4)}{error}")
    lines.append(f"noise {shorten(point.noise)}")
    lines += [f"{name_knob(k).name} {shorten(v)}" for k, v in point.knobs.items()]
    if not point.ok or len(point.outcomes) > 1:
        counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in point.outcomes.items())
        lines += [escape(line) for line in textwrap.wrap(f"{counts}: {point.detail}", HOVER_WIDTH)]
    if point.number is not None:
        lines.append(f"digest {escape(point.digests[0])}")
    return "<br>".join(lines)


def make_markers(
    name: str, x: Sequence[float | None], y: Sequence[float | None], text: Sequence[str], **more: Any
) -> go.Scatter:
    """Return a trace of markers at `x`, `y` with hover texts `text`; `more` goes to Plotly."""
    more.setdefault("marker", {"size": 8})
    return go.Scatter(
        name=name,
        x=[round_to(v) for v in x],
        y=[round_to(v) for v in y],
        text=list(text),
        mode="markers",
        hovertemplate="%{text}<extra></extra>",
        **more,
    )


@dataclass(frozen=True)
class DrawnPoints:
    """The configurations of a figure by their place in it."""

    inside: list[ConfigPoint]
    clipped: list[ConfigPoint]
    unscored: list[ConfigPoint]
    placeless: int  # number of configurations without a positive noise, which a log axis needs


def sort_points(points: Sequence[ConfigPoint], column: str, view: Window) -> DrawnPoints:
    """Return the configurations in the window, beyond its cut, and without a value."""
    placed = [p for p in points if p.noise is not None]
    scored = [p for p in placed if column in p.values]
    return DrawnPoints(
        inside=[p for p in scored if view.shows(p.values[column].mean)],
        clipped=[p for p in scored if not view.shows(p.values[column].mean)],
        unscored=[p for p in placed if column not in p.values],
        placeless=len(points) - len(placed),
    )


def frame_points(points: Sequence[ConfigPoint], measure: Measure) -> Window:
    """Return the window of a measure's values, with room for the error bars on the good side."""
    estimates = [p.values[measure.column] for p in points if measure.column in p.values]
    view = fit_window([e.mean for e in estimates], measure.anchor, measure.maximize)
    sign = 1 if measure.maximize else -1
    ends = [e.mean + sign * 1.1 * e.error for e in estimates if e.error and view.shows(e.mean)]
    if measure.maximize:
        return replace(view, high=max([view.high, *ends]))
    return replace(view, low=min([view.low, *ends]))


def thin_points(
    points: Sequence[ConfigPoint], column: str, maximize: bool, limit: int, best: int = 20
) -> tuple[frozenset[int], str]:
    """Return the indices of at most `limit` points, evenly spread over the order of noise, and a sentence on it.

    They include the `best` points by the column's value.
    """
    if len(points) <= limit:
        return frozenset(range(len(points))), ""
    order = sorted(range(len(points)), key=lambda i: points[i].noise or 0.0)
    scored = [i for i in order if column in points[i].values and points[i].can_win]
    top = sorted(scored, key=lambda i: points[i].values[column].mean, reverse=maximize)[:best]
    step = (len(order) - 1) / max(1, limit - len(top) - 1)
    kept = {*top, *(order[round(i * step)] for i in range(limit - len(top)))}
    notice = f"Drawn: {len(kept)} of {len(points)} configurations, evenly spread over the order of noise, and the best."
    return frozenset(kept), notice


def make_error_bars(estimates: Sequence[Estimate], colour: str) -> dict[str, Any] | None:
    """Return Plotly's error bars, the standard errors over the repeats; None without one."""
    if not any(e.error for e in estimates):
        return None
    return {"array": [round_to(e.error) or 0.0 for e in estimates], "thickness": 1, "width": 2, "color": colour}


def make_dots(
    name: str, group: Sequence[ConfigPoint], x: Sequence[float | None], column: str, marker: dict[str, Any], **more: Any
) -> go.Scatter:
    """Return a trace of configurations at their values of `column`, with error bars; `more` goes to Plotly."""
    estimates = [p.values[column] for p in group]
    more.setdefault("text", [describe(p, column) for p in group])
    return make_markers(
        name,
        x,
        [e.mean for e in estimates],
        more.pop("text"),
        marker={"size": 7, "line": {"width": 0.6, "color": GREY}} | marker,
        error_y=make_error_bars(estimates, GREY),
        customdata=[p.digests[0] for p in group],
        **more,
    )


def make_edge_traces(
    points: DrawnPoints,
    column: str,
    view: Window,
    place: Callable[[ConfigPoint], float | None],
    colour: str = BLUE,
    legend: bool = False,
) -> list[go.Scatter]:
    """Return traces along the frame's edge: clipped configurations and those without a value.

    Args:
        points: The configurations.
        column: Column of the value.
        view: The frame.
        place: Returns a configuration's place on the other axis.
        colour: Colour of clipped configurations.
        legend: Whether the legend names the symbols; the caption always does.
    """
    down = view.maximize
    clipped = {"size": 9, "symbol": "triangle-down" if down else "triangle-up", "color": colour}
    groups = [(f"{'below' if down else 'above'} the frame", clipped, points.clipped)]
    for outcome in sorted({p.outcome for p in points.unscored}):
        name = "no value" if outcome == "ok" else outcome.replace("_", " ")
        marker = {"size": 8, "symbol": SYMBOLS.get(outcome, "square-open"), "color": GREY}
        groups.append((name, marker, [p for p in points.unscored if p.outcome == outcome]))
    return [
        make_markers(
            name,
            [place(p) for p in group],
            [view.edge] * len(group),
            [describe(p, column) for p in group],
            marker=marker,
            customdata=[p.digests[0] for p in group],
            showlegend=legend,
            legendrank=1001 + rank,
        )
        for rank, (name, marker, group) in enumerate(groups)
        if group
    ]


def write_caption(points: DrawnPoints, view: Window) -> str:
    """Return sentences on the configurations that are not drawn at their values."""
    side, arrow = ("below", "▼") if view.maximize else ("above", "▲")
    sentences: list[str] = []
    if points.clipped:
        sentences.append(f"{_count(points.clipped)} {side} the frame appear as {arrow} at its edge.")
    if points.unscored:
        kinds = ", ".join(MARKS.get(o, f"□ {o}") for o in sorted({p.outcome for p in points.unscored}))
        sentences.append(f"{_count(points.unscored)} without a value appear along the edge ({kinds}).")
    if points.placeless:
        sentences.append(f"Left out: {points.placeless} whose noise is 0 or unknown.")
    return " ".join(sentences)


def _count(points: Sequence[Any]) -> str:
    return pluralize(len(points), "configuration")


MOST_COLUMNS = 3
_ROW, _FOOT, _GAP = 300, 60, 0.035


@dataclass(frozen=True)
class DrawnPanel:
    """A panel: traces, Plotly's settings of the x axis, and a note above its right end."""

    traces: Sequence[Any]
    axis: Mapping[str, Any]
    note: str = ""


def draw_panels(
    panels: Sequence[DrawnPanel], measure: Measure, view: Window, bar: Mapping[str, Any] | None = None
) -> Any:
    """Return a figure of panels with the value axis of `measure`, at most `MOST_COLUMNS` in a row.

    Args:
        panels: At least one.
        measure: The measure; its label is the title of the first column's axes.
        view: The visible part of its values.
        bar: Plotly's `coloraxis`; its bar lies above the panels.
    """
    count = len(panels)
    columns = MOST_COLUMNS if count > 4 else min(2, count)
    rows = -(-count // columns)
    top = 78 if bar else 52
    layout: dict[str, Any] = {"height": top + _FOOT + _ROW * rows, "annotations": [], "shapes": []}
    traces: list[Any] = []
    # one dictionary, since Plotly's helpers validate every axis on every update
    for i, panel in enumerate(panels):
        key = "" if i == 0 else str(i + 1)
        row, column = divmod(i, columns)
        traces += [{**_to_dict(t), "xaxis": f"x{key}", "yaxis": f"y{key}"} for t in panel.traces]
        width, height = (1 - _GAP * (columns - 1)) / columns, (1 - 0.26 * (rows - 1) / rows) / rows
        left, up = column * (width + _GAP), (rows - 1 - row) * (height + 0.26 / rows)
        layout[f"xaxis{key}"] = {**panel.axis, "domain": [left, left + width], "anchor": f"y{key}"}
        layout[f"yaxis{key}"] = {
            "domain": [up, up + height],
            "anchor": f"x{key}",
            "range": [view.low, view.high],
            "tickformat": ".1%" if measure.share else None,
            "showticklabels": column == 0,
            "title": {"text": wrap_title(measure.label) if column == 0 else None},
        }
        if panel.note:
            place = {"x": 1, "y": 1, "xref": f"x{key} domain", "yref": f"y{key} domain"}
            look = {"xanchor": "right", "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
            layout["annotations"].append({"text": panel.note, **place, **look})
        if measure.anchor == 0.0:
            line = {"type": "line", "line": {"color": GREY, "width": 1}, "layer": "below"}
            layout["shapes"].append(
                {**line, "xref": f"x{key} domain", "yref": f"y{key}", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
            )
    figure: Any = make_figure(**layout, **({"coloraxis": dict(bar)} if bar else {}))
    figure.update_layout(margin={"t": top})
    figure.add_traces(traces)
    return figure


def _to_dict(trace: Any) -> dict[str, Any]:
    return trace if isinstance(trace, dict) else trace.to_plotly_json()
