"""Merge curves coloured by noise, and the course of the search: records in, Plotly figures out."""

from __future__ import annotations

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
from .curves import MergeCurve, SearchStep
from .marks import SYMBOLS, Chart, Measure, describe, figure, finish

_PANELS = {
    "linear": ("linear: α [1]", "excess over the line between the parents"),
    "task_arithmetic": ("task arithmetic: s [1]", "excess over the mean of the parents"),
}


def curves_chart(curves: Sequence[MergeCurve], noise_label: str) -> Chart:
    """Draw the merge curves, one panel per merge, coloured by noise.

    Args:
        curves: At least one curve, ordered by noise within each merge.
        noise_label: Title of the colour bar.
    """
    methods = sorted({c.method for c in curves}, key=lambda m: (m != "linear", m))
    low, high = min(c.noise for c in curves), max(c.noise for c in curves)
    # the frame is that of the linear merges: the far ends of task arithmetic leave every basin
    inner = [c for c in curves if c.method == methods[0]]
    view = window([e for c in inner for e in c.excess], 0.0, False)
    shown = figure(showlegend=False, coloraxis=colour_bar(low, high, noise_label))
    shown.set_subplots(rows=1, cols=len(methods), shared_yaxes=True, horizontal_spacing=0.04)
    for i, method in enumerate(methods, start=1):
        for curve in (c for c in curves if c.method == method):
            shown.add_trace(_line(curve, noise_colour(curve.noise, low, high)), row=1, col=i)
        x_title = _PANELS.get(method, (f"{method.replace('_', ' ')}: coefficient [1]", ""))[0]
        shown.update_xaxes(title={"text": x_title}, row=1, col=i)
    # plotly draws a colour bar for markers only: one that is never seen carries it
    shown.add_scatter(x=[None], y=[None], mode="markers", marker={"color": [0.0], "coloraxis": "coloraxis"})
    shown.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    shown.update_yaxes(range=[view.low, view.high])
    shown.update_yaxes(title={"text": "excess test loss [nat]"}, col=1)
    text = _curves_caption(curves, methods, view)
    return Chart("curves", "Test loss along the merges", text, finish(shown), height=470, wide=True)


def _line(curve: MergeCurve, colour: str) -> dict[str, Any]:
    number = "" if curve.number is None else f"trial {curve.number} · "
    text = f"<b>{number}{curve.digest}</b><br>noise {short(curve.noise)}"
    return {
        "type": "scatter",
        "x": [rounded(v, 4) for v in curve.coefficient],
        "y": [rounded(v, 5) for v in curve.excess],
        "mode": "lines",
        "line": {"color": colour, "width": 1.4},
        "opacity": 0.85,
        "hovertemplate": text + "<br>at %{x:.2f}: %{y:.3g} nat<extra></extra>",
    }


def _curves_caption(curves: Sequence[MergeCurve], methods: Sequence[str], view: Window) -> str:
    what = [f"{m.replace('_', ' ')}: {_PANELS[m][1]}" for m in methods if m in _PANELS]
    text = f"One line per pair; below 0 the merge beats its parents ({'; '.join(what)})." if what else ""
    for method in methods:
        group = [c for c in curves if c.method == method]
        leaving = sum(max(c.excess) > view.high for c in group)
        if leaving:
            text += f" {leaving} of {len(group)} {method.replace('_', ' ')} lines leave the frame upwards."
    return text


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
            shown.add_scatter(
                name=name,
                x=[s.number for s in group],
                y=[rounded(s.value) if symbol == "circle" else rounded(view.edge) for s in group],
                text=[_told(s, measure.column) for s in group],
                mode="markers",
                marker={"size": 7, "symbol": symbol, "color": colour},
                hovertemplate="%{text}<extra></extra>",
                row=1,
                col=1,
            )
    best = [s for s in steps if s.best is not None]
    shown.add_scatter(
        name="best so far",
        x=[s.number for s in best],
        y=[rounded(s.best) for s in best],
        mode="lines",
        line={"color": VERMILLION, "width": 2, "shape": "hv"},
        hoverinfo="skip",
        row=1,
        col=1,
    )


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
        shown.add_scatter(
            name="sampler's optimum",
            x=[s.number for s in guessed],
            y=[rounded(s.optimum) for s in guessed],
            mode="lines",
            line={"color": GREEN, "width": 2, "dash": "dash"},
            hoverinfo="skip",
            row=2,
            col=1,
        )
    placed = [s for s in steps if s.noise is not None]
    shown.add_scatter(
        name="noise",
        x=[s.number for s in placed],
        y=[rounded(s.noise) for s in placed],
        text=[_told(s, column) for s in placed],
        mode="markers",
        marker={"size": 7, "color": BLUE, "symbol": [SYMBOLS.get(s.point.outcome, "circle") for s in placed]},
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
        row=2,
        col=1,
    )
