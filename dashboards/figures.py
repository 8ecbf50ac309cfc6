"""The objective against the noise and against the raw knobs: records in, Plotly figures out. No files, no clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from .axes import BLUE, GREEN, GREY, ORANGE, VERMILLION, Window, colour_bar, log_axis, rounded, short, window, wrapped
from .tables import ConfigPoint, Estimate

if TYPE_CHECKING:
    from sweeper.regime import Regime

SYMBOLS = {"diverged": "x", "not_viable": "diamond-open", "failed": "cross"}
MARKS = {"diverged": "✖ diverged", "not_viable": "◇ not viable", "failed": "✚ failed", "ok": "□ no value"}
SHIFTED_MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


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


def _markers(
    name: str, x: Sequence[float | None], y: Sequence[float | None], text: Sequence[str], **more: Any
) -> go.Scatter:
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
    return f"{len(points)} configuration{'' if len(points) == 1 else 's'}"


def _error_bars(found: Sequence[Estimate], colour: str) -> dict[str, Any] | None:
    if not any(e.error for e in found):
        return None
    return {"array": [rounded(e.error) or 0.0 for e in found], "thickness": 1, "width": 3, "color": colour}


def _curve(shown: go.Figure, regime: Regime) -> None:
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
    shown.add_scatter(name="fit to validation", x=grid, y=mean, mode="lines", line=line, hoverinfo="skip")


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


def _edge_marks(shown: go.Figure, sorted_points: Shown, column: str, view: Window, colour: str) -> None:
    down = view.maximize
    if sorted_points.clipped:
        shown.add_trace(
            _markers(
                f"{'below' if down else 'above'} the frame",
                [p.noise for p in sorted_points.clipped],
                [view.edge] * len(sorted_points.clipped),
                [describe(p, column) for p in sorted_points.clipped],
                marker={"size": 9, "symbol": "triangle-down" if down else "triangle-up", "color": colour},
                legendrank=1001,
            )
        )
    for outcome in sorted({p.outcome for p in sorted_points.unscored}):
        group = [p for p in sorted_points.unscored if p.outcome == outcome]
        shown.add_trace(
            _markers(
                "no value" if outcome == "ok" else outcome.replace("_", " "),
                [p.noise for p in group],
                [view.edge] * len(group),
                [describe(p, column) for p in group],
                marker={"size": 8, "symbol": SYMBOLS.get(outcome, "square-open"), "color": GREY},
                legendrank=1002,
            )
        )


@dataclass(frozen=True)
class Measure:
    """What a figure shows: the validation column that is fitted, the test column beside it, label and direction."""

    key: str
    column: str
    test_column: str
    label: str
    maximize: bool
    anchor: float | None


def noise_chart(
    points: Sequence[ConfigPoint], measure: Measure, noise_label: str, title: str, regime: Regime | None = None
) -> Chart:
    """Draw one measure against the noise: validation points with fit and optimum, test points beside them.

    Args:
        points: One record per configuration with both columns of `measure`.
        measure: What is drawn.
        noise_label: Title of the noise axis.
        title: Heading of the chart.
        regime: Fit to draw; None draws the points alone.
    """
    known = [p.values[measure.column].mean for p in points if p.noise and measure.column in p.values]
    view = window(known, measure.anchor, measure.maximize)
    validation = sort_out(points, measure.column, view)
    shown = figure()
    if regime is not None and len(regime.grid) > 1:
        _curve(shown, regime)
    if regime is not None:
        _optimum(shown, regime, view)
    test = sort_out(points, measure.test_column, view).inside
    for name, group, column, colour in (
        ("test", test, measure.test_column, ORANGE),
        ("validation", validation.inside, measure.column, BLUE),
    ):
        found = [p.values[column] for p in group]
        symbol = "circle" if name == "validation" else "circle-open"
        marker = {"size": 8 if name == "validation" else 7, "color": colour, "symbol": symbol, "line": {"width": 1}}
        trace = _markers(name, [p.noise for p in group], [e.mean for e in found], [describe(p, column) for p in group])
        trace.update(marker=marker, error_y=_error_bars(found, colour), meta=name)
        shown.add_trace(trace)
    _edge_marks(shown, validation, measure.column, view, BLUE)
    placed = [p.noise for p in points if p.noise] + list(regime.grid if regime is not None else ())
    shown.update_xaxes(log_axis(placed, noise_label))
    shown.update_yaxes(title={"text": measure.label}, range=[view.low, view.high])
    if "accuracy" in measure.column:
        shown.update_yaxes(tickformat=".1%")
    if measure.anchor == 0.0:
        shown.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
    text = caption(validation, view)
    if regime is not None and regime.floor is not None and validation.clipped:
        text += f" The fit counts what is worse than {short(regime.floor)} as {short(regime.floor)}."
    return Chart(measure.key, title, text, finish(shown))


def _momentum_axis(values: Sequence[float]) -> dict[str, Any]:
    # 1/(1 - mu) on a log axis: .9 and .95 stand as far apart as they are in the noise
    low, high = (min(values), max(values)) if values else (0.0, 0.9)
    ticks = [m for m in SHIFTED_MOMENTA if low - 1e-9 <= m <= high + 1e-9]
    ticks = ticks if len(ticks) > 1 else sorted({low, high})
    return {
        **log_axis([1 / (1 - v) for v in values], "momentum μ [1], spaced as 1/(1−μ)"),
        "tickvals": [1 / (1 - m) for m in ticks],
        "ticktext": [f"{m:g}" for m in ticks],
    }


def _batch_axis(values: Sequence[float]) -> dict[str, Any]:
    axis = log_axis(values, "batch size B [examples]")
    powers = [2**k for k in range(21) if values and min(values) / 1.25 <= 2**k <= max(values) * 1.25]
    if len(powers) > 8:
        powers = powers[::2]
    return axis | ({"tickvals": powers, "ticktext": [str(p) for p in powers]} if len(powers) > 1 else {})


def knobs_chart(points: Sequence[ConfigPoint], measure: Measure, noise_label: str) -> Chart:
    """Draw the same points against the noise and against each raw knob, coloured by noise, on one value axis.

    Args:
        points: One record per configuration.
        measure: What is drawn; validation only.
        noise_label: Title of the noise axis and of the colour bar.
    """
    known = [p.values[measure.column].mean for p in points if p.noise and measure.column in p.values]
    view = window(known, measure.anchor, measure.maximize)
    drawn = sort_out(points, measure.column, view)
    shown = figure()
    shown.set_subplots(rows=2, cols=2, shared_yaxes=True, horizontal_spacing=0.05, vertical_spacing=0.2)
    panels = {
        "noise": ([p.noise for p in points if p.noise], lambda v: log_axis(v, noise_label)),
        "learning_rate": (_knob(points, "learning_rate"), lambda v: log_axis(v, "learning rate η [1]")),
        "batch_size": (_knob(points, "batch_size"), _batch_axis),
        "momentum": (_knob(points, "momentum"), _momentum_axis),
    }
    for i, (name, (values, axis)) in enumerate(panels.items()):
        row, column = divmod(i, 2)
        for trace in _panel(drawn, name, measure.column, view):
            shown.add_trace(trace, row=row + 1, col=column + 1)
        shown.update_xaxes(axis(values), row=row + 1, col=column + 1)
    shown.update_yaxes(range=[view.low, view.high])
    shown.update_yaxes(title={"text": wrapped(measure.label)}, col=1)
    noises = [p.noise for p in points if p.noise]
    if noises:
        shown.update_layout(coloraxis=colour_bar(min(noises), max(noises), noise_label))
    text = f"If one noise explains merging, the first panel aligns what the others scatter. {caption(drawn, view)}"
    title = f"{measure.label.split(' [')[0].capitalize()} against the noise and the raw knobs"
    return Chart("knobs", title, text, finish(shown), height=660, wide=True)


def _knob(points: Sequence[ConfigPoint], name: str) -> list[float]:
    return [p.knobs[name] for p in points if name in p.knobs]


def _place(point: ConfigPoint, name: str) -> float | None:
    if name == "noise":
        return point.noise
    value = point.knobs.get(name)
    return 1 / (1 - value) if name == "momentum" and value is not None else value


def _panel(drawn: Shown, name: str, column: str, view: Window) -> list[go.Scatter]:
    edge = "triangle-down" if view.maximize else "triangle-up"
    groups: list[tuple[str, str, list[ConfigPoint]]] = [
        ("validation", "circle", drawn.inside),
        (f"{'below' if view.maximize else 'above'} the frame", edge, drawn.clipped),
        *(
            (o.replace("_", " "), SYMBOLS.get(o, "square-open"), [p for p in drawn.unscored if p.outcome == o])
            for o in sorted({p.outcome for p in drawn.unscored})
        ),
    ]
    return [
        _markers(
            label,
            [_place(p, name) for p in group],
            [p.values[column].mean if symbol == "circle" else view.edge for p in group],
            [describe(p, column) for p in group],
            marker=_noise_marker(group, symbol),
            # a legend cannot show a marker that is coloured by value: the caption tells the symbols
            showlegend=False,
        )
        for label, symbol, group in groups
        if group
    ]


def _noise_marker(group: Sequence[ConfigPoint], symbol: str) -> dict[str, Any]:
    colours = [rounded(math.log10(p.noise), 4) for p in group if p.noise]
    outline = {} if symbol.endswith("-open") else {"line": {"width": 0.6, "color": GREY}}
    return {"size": 8, "symbol": symbol, "color": colours, "coloraxis": "coloraxis", **outline}
