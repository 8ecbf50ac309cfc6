"""The course of the search: records in, a Plotly figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.charts.axes import Window, log_axis, rounded, window, wrapped
from dashboards.charts.chart import SYMBOLS, Chart, Measure, describe, figure, finish, markers
from dashboards.charts.theme import BLUE, GREEN, GREY, VERMILLION
from dashboards.data.curves import SearchStep


def progress_chart(steps: Sequence[SearchStep], measure: Measure, noise_label: str) -> Chart:
    """Draw the objective with the best so far, and below it each configuration's noise with the sampler's estimate.

    Args:
        steps: The configurations in the order of the search; at least one.
        measure: The sweep's objective.
        noise_label: Title of the noise axis.
    """
    view = window([s.value for s in steps if s.value is not None], measure.anchor, measure.maximize)
    shown = figure()
    shown.set_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    _objective_traces(shown, steps, measure, view)
    _noise_traces(shown, steps, measure.column)
    noises = [v for s in steps for v in (s.noise, s.optimum) if v is not None and v > 0]
    shown.update_xaxes(title={"text": "configuration, in the order of the search"}, row=2)
    shown.update_yaxes(title={"text": wrapped(measure.label)}, range=[view.low, view.high], row=1)
    shown.update_yaxes(log_axis(noises, wrapped(noise_label), most=6), row=2)
    clipped = sum(s.value is not None and not view.shows(s.value) for s in steps)
    text = "Above: the objective and the best so far. Below: the noise of each configuration"
    known = any(s.optimum is not None for s in steps)
    text += " and the sampler's running estimate of the best one." if known else "; the sampler gave no estimate."
    if clipped:
        text += f" {clipped} outside the frame, drawn at its edge."
    return Chart("progress", "Progress of the search", text, finish(shown), height=560)


def _objective_traces(shown: Any, steps: Sequence[SearchStep], measure: Measure, view: Window) -> None:
    scored = [s for s in steps if s.value is not None]
    inside = [s for s in scored if view.shows(s.value or 0.0)]
    beyond = [s for s in scored if not view.shows(s.value or 0.0)]
    failed = [s for s in steps if s.value is None]
    edge = "triangle-down" if view.maximize else "triangle-up"
    groups = [("configuration", "circle", BLUE, inside), ("outside the frame", edge, BLUE, beyond)]
    for outcome in sorted({s.point.outcome for s in failed}):
        group = [s for s in failed if s.point.outcome == outcome]
        groups.append((outcome.replace("_", " "), SYMBOLS.get(outcome, "square-open"), GREY, group))
    for name, symbol, colour, group in groups:
        if group:
            y = [s.value if symbol == "circle" else view.edge for s in group]
            shown.add_trace(_points(name, group, y, measure.column, {"symbol": symbol, "color": colour}), row=1, col=1)
    best = [s for s in steps if s.best is not None]
    shape = {"color": VERMILLION, "width": 2, "shape": "hv"}
    shown.add_trace(_line_of("best so far", best, [s.best for s in best], shape), row=1, col=1)


def _told(step: SearchStep, column: str) -> str:
    origin = f"<br>proposed as {step.origin.replace('_', ' ')}" if step.origin else ""
    return describe(step.point, column) + origin


def _noise_traces(shown: Any, steps: Sequence[SearchStep], column: str) -> None:
    guessed = [s for s in steps if s.optimum is not None and s.optimum > 0]
    banded = [s for s in guessed if (s.low or 0) > 0 and s.high is not None]
    if banded:
        x = [s.number for s in banded]
        shown.add_scatter(
            name="its 90 % interval",
            x=x + x[::-1],
            y=[rounded(s.high) for s in banded] + [rounded(s.low) for s in banded[::-1]],
            fill="toself",
            fillcolor="rgba(0, 158, 115, 0.16)",
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            row=2,
            col=1,
        )
    if guessed:
        shape = {"color": GREEN, "width": 2, "dash": "dash"}
        shown.add_trace(_line_of("sampler's optimum", guessed, [s.optimum for s in guessed], shape), row=2, col=1)
    placed = [s for s in steps if s.noise is not None]
    colours = [GREY if s.value is None else BLUE for s in placed]
    marker = {"color": colours, "symbol": [SYMBOLS.get(s.point.outcome, "circle") for s in placed]}
    noises = [s.noise for s in placed]
    shown.add_trace(_points("noise", placed, noises, column, marker, showlegend=False), row=2, col=1)


def _points(
    name: str,
    steps: Sequence[SearchStep],
    y: Sequence[float | None],
    column: str,
    marker: dict[str, Any],
    **more: Any,
) -> Any:
    # one marker a configuration, at its place in the search
    texts = [_told(s, column) for s in steps]
    return markers(name, [s.number for s in steps], y, texts, marker={"size": 7, **marker}, **more)


def _line_of(name: str, steps: Sequence[SearchStep], y: Sequence[float | None], line: dict[str, Any]) -> Any:
    # a line over the search
    x = [s.number for s in steps]
    return {
        "type": "scatter",
        "name": name,
        "x": x,
        "y": [rounded(v) for v in y],
        "mode": "lines",
        "line": line,
        "hoverinfo": "skip",
    }
