"""Merges: curves along their coefficient, coloured by noise, and what each gains: records in, Plotly figures out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from dashboards.charts.axes import colour_bar, log_axis, noise_colour, rounded, short, window
from dashboards.charts.chart import Chart, figure, finish, markers
from dashboards.charts.theme import BLUE, CYCLE, GREY, SYMBOL_CYCLE
from dashboards.data.curves import MAX_CURVES, MergeCurve, MergeGain, thin

# these run from parent to parent, the others from the base along task vectors
BETWEEN_PARENTS = ("linear", "slerp", "fisher")
COLUMNS = 3
_ROW_HEIGHT = 400
_WORDS = {
    "linear": " Linear: excess over the straight line between the parents; below 0 the merge beats them.",
    "task_arithmetic": " Task arithmetic: s = 0 is the base, s = ½ the linear merge at α = ½.",
}


def curves_chart(curves: Sequence[MergeCurve], noise_label: str, limit: int = MAX_CURVES) -> Chart:
    """Draw test losses along the merges, one panel per merge, coloured by noise.

    Merges between the parents are drawn as excess over their ends, those from the base as loss.

    Args:
        curves: At least one curve, ordered by noise within each merge.
        noise_label: Title of the colour bar.
        limit: At most so many curves per merge are drawn, spread evenly over the order of noise; the caption says so.
    """
    methods = sorted({c.method for c in curves}, key=lambda m: (m not in BETWEEN_PARENTS, m != "linear", m))
    panels = _Panels(curves, methods, noise_label)
    text = "One line per pair."
    for i, method in enumerate(methods):
        every = [c for c in curves if c.method == method]
        group = thin(every, limit)
        values = [c.excess if method in BETWEEN_PARENTS else c.values for c in group]
        axis, top = _excess_axis(values) if method in BETWEEN_PARENTS else _loss_axis(values)
        panels.draw(i, group, values, axis, 0.0 if method in BETWEEN_PARENTS else None, "nat")
        text += _words(method, sum(max(y) > top for y in values), len(group), len(every))
    return panels.chart("curves", "Test loss along the merges", text)


def normalised_chart(curves: Sequence[MergeCurve], noise_label: str, limit: int = MAX_CURVES) -> Chart:
    """Draw the normalised test accuracy of two tasks along the merges, one panel per merge, coloured by noise."""
    methods = sorted({c.method for c in curves}, key=lambda m: (m in BETWEEN_PARENTS, m))
    panels = _Panels(curves, methods, noise_label)
    axis = {"title": {"text": "normalised test accuracy [%]"}, "tickformat": ".0%"}
    text = "Mean over both tasks of the merge's accuracy over that of the task's own child; at 100 % it keeps both."
    for i, method in enumerate(methods):
        every = [c for c in curves if c.method == method]
        group = thin(every, limit)
        panels.draw(i, group, [c.values for c in group], axis, 1.0)
        text += _counted(method, len(group), len(every))
    return panels.chart("normalised", "Two tasks in one model", text)


def gains_chart(gains: Sequence[MergeGain], noise_label: str) -> Chart:
    """Draw what each merge gains against the noise, at the coefficient chosen on validation."""
    shown = figure()
    view = window([g.gain for g in gains], 0.0, True)
    outside = 0
    for i, method in enumerate(sorted({g.method for g in gains}, key=lambda m: (m != "linear", m))):
        group = [g for g in gains if g.method == method]
        inside = [g for g in group if view.shows(g.gain)]
        outside += len(group) - len(inside)
        texts = [f"<b>{g.digest}</b><br>{_name(method)} at {short(g.coefficient)}" for g in inside]
        style = {"size": 7, "color": CYCLE[i % len(CYCLE)], "symbol": SYMBOL_CYCLE[i % len(SYMBOL_CYCLE)]}
        x, y = [g.noise for g in inside], [g.gain for g in inside]
        shown.add_trace(markers(_name(method), x, y, texts, marker=style))
    shown.update_xaxes(log_axis([g.noise for g in gains], noise_label))
    shown.update_yaxes(title={"text": "test loss gain over the mean parent [nat]"}, range=[view.low, view.high])
    shown.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
    text = "Each merge of each pair at the coefficient with the lowest validation loss."
    text += f" {outside} below the frame are left out." if outside else ""
    return Chart("gains", "What each merge gains", text, finish(shown), wide=True)


class _Panels:
    """A figure of one panel per merge, at most `COLUMNS` in a row, with the noise as colour."""

    def __init__(self, curves: Sequence[MergeCurve], methods: Sequence[str], noise_label: str) -> None:
        noises = [c.noise for c in curves if c.noise]
        self.low, self.high = (min(noises), max(noises)) if noises else (1.0, 1.0)
        bar = {"coloraxis": colour_bar(self.low, self.high, noise_label)} if noises else {}
        self.shown: Any = figure(showlegend=False, **bar)
        self.columns = min(COLUMNS, len(methods))
        self.rows = -(-len(methods) // self.columns)
        gaps = {"horizontal_spacing": 0.15, "vertical_spacing": 0.25 / self.rows}
        self.shown.set_subplots(rows=self.rows, cols=self.columns, **gaps)
        if noises:
            # plotly draws a colour bar for markers only: one that is never seen carries it
            carrier = {"color": [0.0], "coloraxis": "coloraxis"}
            self.shown.add_scatter(x=[None], y=[None], mode="markers", marker=carrier)

    def draw(
        self, i: int, group: Sequence[MergeCurve], values: Sequence[Sequence[float]], axis: dict[str, Any], level: float
        | None, unit: str = "",
    ) -> None:  # fmt: skip
        """Draw the curves of one merge in panel `i`, with a dotted line at `level`."""
        place = {"row": i // self.columns + 1, "col": i % self.columns + 1}
        for curve, y in zip(group, values, strict=True):
            colour = noise_colour(curve.noise, self.low, self.high) if curve.noise else BLUE
            self.shown.add_trace(_line(curve, y, colour, unit), **place)
        self.shown.update_yaxes(axis, **place)
        symbol = "α" if group[0].method in BETWEEN_PARENTS else "s"
        self.shown.update_xaxes(title={"text": f"{_name(group[0].method)}: {symbol} [1]"}, **place)
        if level is not None:
            self.shown.add_hline(y=level, line={"color": GREY, "width": 1, "dash": "dot"}, **place)

    def chart(self, key: str, title: str, text: str) -> Chart:
        """Return the finished chart."""
        return Chart(key, title, text, finish(self.shown), height=70 + _ROW_HEIGHT * self.rows, wide=True)


def _name(method: str) -> str:
    return method.replace("_", " ")


def _excess_axis(values: Sequence[Sequence[float]]) -> tuple[dict[str, Any], float]:
    view = window([e for y in values for e in y], 0.0, False)
    return {"title": {"text": "excess test loss [nat]"}, "range": [view.low, view.high]}, view.high


def _loss_axis(values: Sequence[Sequence[float]]) -> tuple[dict[str, Any], float]:
    # up to twice the loss at the start, which is the base: beyond it a merge has broken
    low, high = min(map(min, values)), max(map(max, values))
    top = min(high, max(2 * statistics.median(y[0] for y in values), 2 * low))
    return log_axis([low, top], "test loss [nat]"), 1.25 * top


def _line(curve: MergeCurve, y: Sequence[float], colour: str, unit: str) -> dict[str, Any]:
    number = "" if curve.number is None else f"trial {curve.number} · "
    text = f"<b>{number}{curve.digest}</b>" + (f"<br>noise {short(curve.noise)}" if curve.noise else "")
    return {
        "type": "scatter",
        "x": [rounded(v, 4) for v in curve.coefficient],
        "y": [rounded(v, 5) for v in y],
        "mode": "lines",
        "line": {"color": colour, "width": 1.4},
        "opacity": 0.85,
        "hovertemplate": text + f"<br>at %{{x:.2f}}: %{{y:.3g}} {unit}".rstrip() + "<extra></extra>",
    }


def _words(method: str, leaving: int, lines: int, pairs: int) -> str:
    left = f" {leaving} of {lines} {_name(method)} lines leave the frame upwards." if leaving else ""
    return _WORDS.get(method, "") + _counted(method, lines, pairs) + left


def _counted(method: str, lines: int, pairs: int) -> str:
    if lines == pairs:
        return ""
    return f" {lines} of {pairs} {_name(method)} lines shown, evenly spread over the order of noise."
