"""Figures of merges: curves along the coefficient, coloured by noise, and gains."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboards.charts.axes import fit_window, make_log_axis, round_to, shorten
from dashboards.charts.chart import Chart, finish, make_figure, make_markers
from dashboards.charts.colours import QuantileScale
from dashboards.charts.theme import BLUE, CYCLE, GREY, SYMBOL_CYCLE
from dashboards.data.curves import MAX_CURVES, MergeCurve, MergeGain, thin_curves
from sweeper.formatting import BETWEEN_PARENTS, method_words

COLUMNS = 3
_ROW_HEIGHT = 400
_WORDS = {
    "linear": " Linear: excess over the straight line between the parents; below 0, the merge is better.",
    "task_arithmetic": " Task arithmetic: s = 0 is the base, s = ½ the linear merge at α = ½.",
}


def draw_curves(curves: Sequence[MergeCurve], noise_label: str, limit: int = MAX_CURVES) -> Chart:
    """Draw test losses along the merges, one panel per merge, coloured by noise.

    Merges between the parents show the excess over their ends, merges from the base the loss.

    Args:
        curves: At least one curve, ordered by noise within each merge.
        noise_label: Title of the colour bar.
        limit: Maximum number of curves per merge, spread evenly over the order of noise.
    """
    methods = sorted({c.method for c in curves}, key=lambda m: (m not in BETWEEN_PARENTS, m != "linear", m))
    panels = _Panels(curves, methods, noise_label)
    text = "One line per pair."
    for i, method in enumerate(methods):
        every = [c for c in curves if c.method == method]
        group = thin_curves(every, limit)
        values = [c.excess if method in BETWEEN_PARENTS else c.values for c in group]
        axis, top = _make_excess_axis(values) if method in BETWEEN_PARENTS else _make_loss_axis(values)
        panels.draw(i, group, values, axis, 0.0 if method in BETWEEN_PARENTS else None, "nat")
        text += _describe(method, sum(max(y) > top for y in values), len(group), len(every))
    return panels.finish("curves", "Test loss along the merges", text)


def draw_normalised(curves: Sequence[MergeCurve], noise_label: str, limit: int = MAX_CURVES) -> Chart:
    """Draw the normalised test accuracy of several tasks along the merges, one panel per merge, coloured by noise."""
    methods = sorted({c.method for c in curves}, key=lambda m: (m in BETWEEN_PARENTS, m))
    panels = _Panels(curves, methods, noise_label)
    axis = {"title": {"text": "normalised test accuracy [%]"}, "tickformat": ".0%"}
    text = "Accuracy of the merge over that of the task's child, mean over the tasks; at 100 % it keeps all."
    for i, method in enumerate(methods):
        every = [c for c in curves if c.method == method]
        group = thin_curves(every, limit)
        panels.draw(i, group, [c.values for c in group], axis, 1.0)
        text += _describe_thinning(method, len(group), len(every))
    return panels.finish("normalised", "Several tasks in one model", text)


def draw_gains(gains: Sequence[MergeGain], noise_label: str) -> Chart:
    """Draw the gain per merge against the noise. Validation chose the coefficient."""
    figure = make_figure()
    view = fit_window([g.gain for g in gains], 0.0, True)
    outside = 0
    for i, method in enumerate(sorted({g.method for g in gains}, key=lambda m: (m != "linear", m))):
        group = [g for g in gains if g.method == method]
        inside = [g for g in group if view.shows(g.gain)]
        outside += len(group) - len(inside)
        texts = [f"<b>{g.digest}</b><br>{method_words(method)} at {shorten(g.coefficient)}" for g in inside]
        style = {"size": 7, "color": CYCLE[i % len(CYCLE)], "symbol": SYMBOL_CYCLE[i % len(SYMBOL_CYCLE)]}
        x, y = [g.noise for g in inside], [g.gain for g in inside]
        figure.add_trace(make_markers(method_words(method), x, y, texts, marker=style))
    figure.update_xaxes(make_log_axis([g.noise for g in gains], noise_label))
    figure.update_yaxes(title={"text": "test loss gain over the mean parent [nat]"}, range=[view.low, view.high])
    figure.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
    text = "Each merge of each pair at the coefficient with the lowest validation loss."
    text += f" Left out: {outside} below the frame." if outside else ""
    return Chart("gains", "Gain per merge", text, finish(figure), wide=True)


class _Panels:
    """A figure with one panel per merge, `COLUMNS` in a row, coloured by noise."""

    def __init__(self, curves: Sequence[MergeCurve], methods: Sequence[str], noise_label: str) -> None:
        noises = [c.noise for c in curves if c.noise]
        self.scale = QuantileScale.of(np.array(noises, dtype=float))
        bar = {"coloraxis": self.scale.make_axis(noise_label, upright=True)} if noises else {}
        self.figure: Any = make_figure(showlegend=False, **bar)
        self.columns = min(COLUMNS, len(methods))
        self.rows = -(-len(methods) // self.columns)
        gaps = {"horizontal_spacing": 0.15, "vertical_spacing": 0.25 / self.rows}
        self.figure.set_subplots(rows=self.rows, cols=self.columns, **gaps)
        if noises:
            # Plotly draws a colour bar only for markers: an invisible one carries it
            carrier = {"color": [0.0], "coloraxis": "coloraxis"}
            self.figure.add_scatter(x=[None], y=[None], mode="markers", marker=carrier)

    def draw(
        self, i: int, group: Sequence[MergeCurve], values: Sequence[Sequence[float]], axis: dict[str, Any], level: float
        | None, unit: str = "",
    ) -> None:  # fmt: skip
        """Draw the curves of one merge in panel `i`, with a dotted line at `level`."""
        place = {"row": i // self.columns + 1, "col": i % self.columns + 1}
        for curve, y in zip(group, values, strict=True):
            colour = self.scale.pick(curve.noise) if curve.noise else BLUE
            self.figure.add_trace(_make_line(curve, y, colour, unit), **place)
        self.figure.update_yaxes(axis, **place)
        symbol = "α" if group[0].method in BETWEEN_PARENTS else "s"
        self.figure.update_xaxes(title={"text": f"{method_words(group[0].method)}: {symbol}"}, **place)
        if level is not None:
            self.figure.add_hline(y=level, line={"color": GREY, "width": 1, "dash": "dot"}, **place)

    def finish(self, key: str, title: str, text: str) -> Chart:
        """Return the finished chart."""
        return Chart(key, title, text, finish(self.figure), height=70 + _ROW_HEIGHT * self.rows, wide=True)


def _make_excess_axis(values: Sequence[Sequence[float]]) -> tuple[dict[str, Any], float]:
    view = fit_window([e for y in values for e in y], 0.0, False)
    return {"title": {"text": "excess test loss [nat]"}, "range": [view.low, view.high]}, view.high


def _make_loss_axis(values: Sequence[Sequence[float]]) -> tuple[dict[str, Any], float]:
    # up to twice the loss at the start, which is the base: beyond, a merge is broken
    low, high = min(map(min, values)), max(map(max, values))
    top = min(high, max(2 * statistics.median(y[0] for y in values), 2 * low))
    return make_log_axis([low, top], "test loss [nat]"), 1.25 * top


def _make_line(curve: MergeCurve, y: Sequence[float], colour: str, unit: str) -> dict[str, Any]:
    number = "" if curve.number is None else f"trial {curve.number} · "
    text = f"<b>{number}{curve.digest}</b>" + (f"<br>noise {shorten(curve.noise)}" if curve.noise else "")
    return {
        "type": "scatter",
        "x": [round_to(v, 4) for v in curve.coefficient],
        "y": [round_to(v, 5) for v in y],
        "mode": "lines",
        "line": {"color": colour, "width": 1.4},
        "opacity": 0.85,
        "hovertemplate": text + f"<br>at %{{x:.2f}}: %{{y:.3g}} {unit}".rstrip() + "<extra></extra>",
    }


def _describe(method: str, leaving: int, lines: int, pairs: int) -> str:
    left = f" {leaving} of {lines} {method_words(method)} lines leave the frame at the top." if leaving else ""
    return _WORDS.get(method, "") + _describe_thinning(method, lines, pairs) + left


def _describe_thinning(method: str, lines: int, pairs: int) -> str:
    if lines == pairs:
        return ""
    return f" Drawn: {lines} of {pairs} {method_words(method)} lines, evenly spread over the order of noise."
