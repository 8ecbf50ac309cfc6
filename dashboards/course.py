"""Merge curves coloured by noise, and the course of the search: records in, Plotly figures out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .axes import (
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    Window,
    colour_bar,
    log_axis,
    noise_colour,
    rounded,
    short,
    window,
    wrapped,
)
from .curves import MAX_CURVES, MergeCurve, SearchStep, thin
from .marks import SYMBOLS, Chart, Measure, describe, figure, finish, markers

_AXES = {"linear": "linear: α [1]", "task_arithmetic": "task arithmetic: s [1]"}


def curves_chart(curves: Sequence[MergeCurve], noise_label: str, limit: int = MAX_CURVES) -> Chart:
    """Draw the merge curves, one panel per merge, coloured by noise: `linear` as excess over its ends, others as loss.

    Args:
        curves: At least one curve, ordered by noise within each merge.
        noise_label: Title of the colour bar.
        limit: At most so many curves per merge are drawn, spread evenly over the order of noise; the caption says so.
    """
    methods = sorted({c.method for c in curves}, key=lambda m: (m != "linear", m))
    noises = [c.noise for c in curves if c.noise]
    low, high = (min(noises), max(noises)) if noises else (1.0, 1.0)
    shown = figure(showlegend=False, **({"coloraxis": colour_bar(low, high, noise_label)} if noises else {}))
    shown.set_subplots(rows=1, cols=len(methods), horizontal_spacing=0.12)
    text = "One line per pair."
    for i, method in enumerate(methods, start=1):
        every = [c for c in curves if c.method == method]
        group = thin(every, limit)
        values = [c.excess if method == "linear" else c.loss for c in group]
        for curve, y in zip(group, values, strict=True):
            colour = noise_colour(curve.noise, low, high) if curve.noise else BLUE
            shown.add_trace(_line(curve, y, colour), row=1, col=i)
        axis, top = _excess_axis(values) if method == "linear" else _loss_axis(values)
        shown.update_yaxes(axis, row=1, col=i)
        shown.update_xaxes(title={"text": _AXES.get(method, f"{_words(method)}: coefficient [1]")}, row=1, col=i)
        text += _curves_words(method, sum(max(y) > top for y in values), len(group), len(every))
    if noises:
        # plotly draws a colour bar for markers only: one that is never seen carries it
        shown.add_scatter(x=[None], y=[None], mode="markers", marker={"color": [0.0], "coloraxis": "coloraxis"})
    if methods[0] == "linear":
        shown.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"}, row=1, col=1)  # pyright: ignore[reportArgumentType]
    return Chart("curves", "Test loss along the merges", text, finish(shown), height=470, wide=True)


def _words(method: str) -> str:
    return method.replace("_", " ")


def _excess_axis(values: Sequence[Sequence[float]]) -> tuple[dict[str, Any], float]:
    view = window([e for y in values for e in y], 0.0, False)
    return {"title": {"text": "excess test loss [nat]"}, "range": [view.low, view.high]}, view.high


def _loss_axis(values: Sequence[Sequence[float]]) -> tuple[dict[str, Any], float]:
    # up to twice the loss at the start, which for task arithmetic is the base: beyond it a merge has broken
    low, high = min(map(min, values)), max(map(max, values))
    top = min(high, max(2 * statistics.median(y[0] for y in values), 2 * low))
    return log_axis([low, top], "test loss [nat]"), 1.25 * top


def _line(curve: MergeCurve, y: Sequence[float], colour: str) -> dict[str, Any]:
    number = "" if curve.number is None else f"trial {curve.number} · "
    text = f"<b>{number}{curve.digest}</b><br>noise {short(curve.noise)}"
    return {
        "type": "scatter",
        "x": [rounded(v, 4) for v in curve.coefficient],
        "y": [rounded(v, 5) for v in y],
        "mode": "lines",
        "line": {"color": colour, "width": 1.4},
        "opacity": 0.85,
        "hovertemplate": text + "<br>at %{x:.2f}: %{y:.3g} nat<extra></extra>",
    }


def _curves_words(method: str, leaving: int, lines: int, pairs: int) -> str:
    said = ""
    if method == "linear":
        said = " Linear: excess over the straight line between the parents; below 0 the merge beats them."
    elif method == "task_arithmetic":
        said = " Task arithmetic: s = 0 is the base, s = ½ the linear merge at α = ½."
    if lines < pairs:
        said += f" {lines} of {pairs} {_words(method)} lines shown, evenly spread over the order of noise."
    left = f" {leaving} of {lines} {_words(method)} lines leave the frame upwards." if leaving else ""
    return said + left


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
    marker = {"color": BLUE, "symbol": [SYMBOLS.get(s.point.outcome, "circle") for s in placed]}
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
