"""The same points against the noise and against the raw knobs: records in, a Plotly figure out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .axes import GREY, Window, colour_bar, log_axis, rounded, window, wrapped
from .marks import SYMBOLS, Chart, Measure, Shown, caption, describe, figure, finish, markers, sort_out
from .tables import ConfigPoint

SHIFTED_MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


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
        "noise": ([p.noise for p in points if p.noise], lambda v: log_axis(v, noise_label, most=5)),
        "learning_rate": (_knob(points, "learning_rate"), lambda v: log_axis(v, "learning rate η [1]", most=5)),
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
        markers(
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
