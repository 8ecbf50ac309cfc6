"""What every figure is made of: charts, markers, what the mouse tells, and what does not fit the frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import plotly.graph_objects as go

from dashboards.charts.axes import Window, rounded, short, window
from dashboards.charts.theme import BLUE, GREY
from dashboards.data.configurations import ConfigPoint, Estimate
from sweeper.formatting import pluralize

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
    """What a figure shows: the validation column that is fitted, the test column beside it, label and direction."""

    key: str
    column: str
    test_column: str
    label: str
    maximize: bool
    anchor: float | None

    @property
    def share(self) -> bool:
        """Whether it is drawn as per cent."""
        return "accuracy" in self.column


@dataclass(frozen=True)
class Chart:
    """One figure of the page with the words around it.

    Attributes:
        key: Identifier on the page.
        title: Heading.
        caption: What to see, what was left out and how many.
        figure: The Plotly figure; it carries no title of its own.
        height: Height in pixels.
        wide: Whether it takes the whole width of the page.
    """

    key: str
    title: str
    caption: str
    figure: go.Figure
    height: int = 430
    wide: bool = False


def arranged(charts: Sequence[Chart]) -> list[Chart]:
    """Return the charts as rows of the page: two narrow ones are equally high, one alone takes the whole width."""
    rows: list[Chart] = []
    row: Chart | None = None
    for shown in charts:
        if shown.wide:
            rows += [replace(row, wide=True)] if row else []
            rows, row = [*rows, shown], None
        elif row is not None:
            height = max(row.height, shown.height)
            rows, row = [*rows, replace(row, height=height), replace(shown, height=height)], None
        else:
            row = shown
    return rows + ([replace(row, wide=True)] if row else [])


def figure(**layout: Any) -> go.Figure:
    """Return an empty figure in the page's style; its colours come from the page's light or dark theme."""
    shown = go.Figure()
    shown.update_layout(
        template="none",
        autosize=True,
        margin={"l": 70, "r": 16, "t": 16, "b": 56},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hovermode="closest",
        **layout,
    )
    return shown


def finish(shown: go.Figure) -> go.Figure:
    """Give every axis of a figure the page's style: no zero line, ticks outside, room for its title."""
    shown.update_xaxes(zeroline=False, ticks="outside", ticklen=4, automargin=True, title_standoff=8)
    shown.update_yaxes(zeroline=False, ticks="outside", ticklen=4, automargin=True, title_standoff=8)
    return shown


def describe(point: ConfigPoint, column: str) -> str:
    """Return what the mouse tells about a configuration, as Plotly's markup."""
    found = point.values.get(column)
    number = "" if point.number is None else f"trial {point.number} · "
    lines = [f"<b>{number}{escape(point.digests[0])}</b>"]
    if found is not None:
        spread = f" ± {short(found.error, 2)} ({found.n} repeats)" if found.error is not None else ""
        lines.append(f"{escape(column)} {short(found.mean, 4)}{spread}")
    lines.append(f"noise {short(point.noise)}")
    lines.append(", ".join(f"{k.replace('_', ' ')} {short(v)}" for k, v in point.knobs.items()))
    if not point.ok or len(point.outcomes) > 1:
        lines.append(escape(", ".join(f"{n} {name}" for name, n in point.outcomes.items()) + f": {point.detail}"))
    return "<br>".join(lines)


def markers(
    name: str, x: Sequence[float | None], y: Sequence[float | None], text: Sequence[str], **more: Any
) -> go.Scatter:
    """Return a trace of markers at `x`, `y` that tell `text`; `more` goes to Plotly."""
    more.setdefault("marker", {"size": 8})
    return go.Scatter(
        name=name,
        x=[rounded(v) for v in x],
        y=[rounded(v) for v in y],
        text=list(text),
        mode="markers",
        hovertemplate="%{text}<extra></extra>",
        **more,
    )


@dataclass(frozen=True)
class Shown:
    """The configurations of one figure, sorted by where they are drawn."""

    inside: list[ConfigPoint]
    clipped: list[ConfigPoint]
    unscored: list[ConfigPoint]
    placeless: int  # configurations whose noise is 0 and that have no place on a log axis


def sort_out(points: Sequence[ConfigPoint], column: str, view: Window) -> Shown:
    """Sort the configurations: in the window, beyond its cut, without a value."""
    placed = [p for p in points if p.noise is not None]
    scored = [p for p in placed if column in p.values]
    return Shown(
        inside=[p for p in scored if view.shows(p.values[column].mean)],
        clipped=[p for p in scored if not view.shows(p.values[column].mean)],
        unscored=[p for p in placed if column not in p.values],
        placeless=len(points) - len(placed),
    )


def frame(points: Sequence[ConfigPoint], measure: Measure) -> Window:
    """Return the shown part of a measure's values, with room for the error bars on the good side."""
    found = [p.values[measure.column] for p in points if measure.column in p.values]
    view = window([e.mean for e in found], measure.anchor, measure.maximize)
    sign = 1 if measure.maximize else -1
    ends = [e.mean + sign * 1.1 * e.error for e in found if e.error and view.shows(e.mean)]
    if measure.maximize:
        return replace(view, high=max([view.high, *ends]))
    return replace(view, low=min([view.low, *ends]))


def thinned(
    points: Sequence[ConfigPoint], column: str, maximize: bool, limit: int, best: int = 20
) -> tuple[frozenset[int], str]:
    """Return the indices of at most `limit` points, evenly spread over the order of noise, and the sentence on it.

    The `best` ones by the column's value are always among them.
    """
    if len(points) <= limit:
        return frozenset(range(len(points))), ""
    order = sorted(range(len(points)), key=lambda i: points[i].noise or 0.0)
    scored = [i for i in order if column in points[i].values and points[i].can_win]
    top = sorted(scored, key=lambda i: points[i].values[column].mean, reverse=maximize)[:best]
    step = (len(order) - 1) / max(1, limit - len(top) - 1)
    kept = {*top, *(order[round(i * step)] for i in range(limit - len(top)))}
    said = f"{len(kept)} of {len(points)} configurations drawn, evenly spread over the order of noise, and the best."
    return frozenset(kept), said


def error_bars(found: Sequence[Estimate], colour: str) -> dict[str, Any] | None:
    """Return Plotly's error bars, the standard errors over the repeats; None where there are none."""
    if not any(e.error for e in found):
        return None
    return {"array": [rounded(e.error) or 0.0 for e in found], "thickness": 1, "width": 2, "color": colour}


def dots(
    name: str, group: Sequence[ConfigPoint], x: Sequence[float | None], column: str, marker: dict[str, Any], **more: Any
) -> go.Scatter:
    """Return configurations at their value of `column`, which all have, with error bars; `more` goes to Plotly."""
    found = [p.values[column] for p in group]
    more.setdefault("text", [describe(p, column) for p in group])
    return markers(
        name,
        x,
        [e.mean for e in found],
        more.pop("text"),
        marker={"size": 7, "line": {"width": 0.6, "color": GREY}} | marker,
        error_y=error_bars(found, GREY),
        customdata=[p.digests[0] for p in group],
        **more,
    )


def edge_traces(
    shown: Shown,
    column: str,
    view: Window,
    place: Callable[[ConfigPoint], float | None],
    colour: str = BLUE,
    legend: bool = False,
) -> list[go.Scatter]:
    """Return what is not drawn at its value: clipped configurations and those without one, along the frame's edge.

    Args:
        shown: The configurations, sorted out.
        column: Column of the value.
        view: The frame.
        place: Where a configuration stands on the other axis.
        colour: Of the clipped ones.
        legend: Whether the legend names the symbols; the caption does.
    """
    down = view.maximize
    clipped = {"size": 9, "symbol": "triangle-down" if down else "triangle-up", "color": colour}
    groups = [(f"{'below' if down else 'above'} the frame", clipped, shown.clipped)]
    for outcome in sorted({p.outcome for p in shown.unscored}):
        name = "no value" if outcome == "ok" else outcome.replace("_", " ")
        marker = {"size": 8, "symbol": SYMBOLS.get(outcome, "square-open"), "color": GREY}
        groups.append((name, marker, [p for p in shown.unscored if p.outcome == outcome]))
    return [
        markers(
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


def caption(shown: Shown, view: Window) -> str:
    """Return the sentences on what is not drawn at its value."""
    side, arrow = ("below", "▼") if view.maximize else ("above", "▲")
    said: list[str] = []
    if shown.clipped:
        said.append(f"{_count(shown.clipped)} {side} the frame, drawn as {arrow} at its edge.")
    if shown.unscored:
        kinds = ", ".join(MARKS.get(o, f"□ {o}") for o in sorted({p.outcome for p in shown.unscored}))
        said.append(f"{_count(shown.unscored)} without a value, marked along the edge ({kinds}).")
    if shown.placeless:
        said.append(f"{shown.placeless} left out: their noise is 0 or unknown.")
    return " ".join(said)


def _count(points: Sequence[Any]) -> str:
    return pluralize(len(points), "configuration")
