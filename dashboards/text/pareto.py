"""Several objectives against each other: records in, a Plotly figure and a table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.axes import Window, log_axis, rounded, short, window, wrapped
from dashboards.charts.chart import Chart, describe, figure, finish, markers
from dashboards.charts.theme import BLUE, GREY
from dashboards.data.configurations import ConfigPoint
from dashboards.text.best import Cell, TextTable
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES, Objective


def front_chart(points: Sequence[ConfigPoint], front: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> Chart:
    """Draw the first objective against each further one: all configurations in grey, the Pareto set over them.

    Args:
        points: One record per configuration, with the objectives' columns.
        front: The records of `sweeper.analysis.best.pareto`.
        objectives: At least two names in `OBJECTIVES`.
    """
    first, *others = objectives
    placed = [p for p in points if all(OBJECTIVES[name].column in p.values for name in objectives)]
    sides = {name: _side(placed, OBJECTIVES[name]) for name in objectives}
    shown = figure()
    shown.set_subplots(rows=1, cols=len(others), horizontal_spacing=0.14)
    for col, other in enumerate(others, start=1):
        _panel(shown, placed, front, (sides[first], sides[other]), col)
        shown.update_xaxes(sides[first].axis, row=1, col=col)
        shown.update_yaxes(sides[other].axis, row=1, col=col)
    text = (
        f"Means over the repeats on validation. {pluralize(len(front), 'configuration')} of {len(placed)}: "
        "no other one matches them in every objective and beats them in one."
    )
    if clipped := sum(any(not s.shows(p) for s in sides.values()) for p in placed):
        text += f" {pluralize(clipped, 'configuration')} outside the frame, drawn at its edge."
    return Chart("front", "Pareto set", text, finish(shown), wide=len(others) > 1)


@dataclass(frozen=True)
class _Side:
    """One axis: the objective's column, its Plotly settings, and the window; None shows all."""

    column: str
    axis: Mapping[str, Any]
    view: Window | None

    def shows(self, point: ConfigPoint) -> bool:
        return self.view is None or self.view.shows(point.values[self.column].mean)

    def at(self, point: ConfigPoint) -> float:
        return point.values[self.column].mean if self.view is None or self.shows(point) else self.view.edge


def _side(points: Sequence[ConfigPoint], goal: Objective) -> _Side:
    values, title = [p.values[goal.column].mean for p in points], wrapped(goal.label)
    if not goal.capped and min(values) > 0:  # a cost, whose ratios count
        return _Side(goal.column, log_axis(values, title, most=6), None)
    view = window(values, None, goal.maximize)
    return _Side(goal.column, {"title": {"text": title}, "range": [view.low, view.high], "nticks": 6}, view)


def _panel(
    shown: Any, points: Sequence[ConfigPoint], front: Sequence[Mapping[str, Any]], sides: tuple[_Side, _Side], col: int
) -> None:
    best = {r["config"] for r in front}
    x, y = sides
    for name, group, marker in (
        ("configuration", [p for p in points if p.config not in best], {"size": 7, "color": GREY, "opacity": 0.6}),
        ("Pareto set", [p for p in points if p.config in best], {"size": 9, "color": BLUE}),
    ):
        texts = [_told(p, x.column, y.column) for p in group]
        places = [x.at(p) for p in group], [y.at(p) for p in group]
        shown.add_trace(markers(name, *places, texts, marker=marker, showlegend=col == 1), row=1, col=col)
    line = sorted((x.at(p), y.at(p)) for p in points if p.config in best)
    shown.add_scatter(
        x=[rounded(a) for a, _ in line],
        y=[rounded(b) for _, b in line],
        mode="lines",
        line={"color": BLUE, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=col,
    )


def _told(point: ConfigPoint, column: str, other: str) -> str:
    return f"{describe(point, column)}<br>{other} {short(point.values[other].mean, 4)}"


def front_table(front: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> TextTable:
    """Return the Pareto set as a table, the best by the first objective first."""
    head = (
        Cell("trial", "position of the configuration in its sweep; the digest is shown on the number"),
        *(Cell(OBJECTIVES[name].label, OBJECTIVES[name].column) for name in objectives),
        Cell("repeats", "repeats that the numbers are means of"),
    )
    rows = [
        (
            Cell("–" if r["number"] is None else str(r["number"]), f"digest of the best repeat {r['digest']}"),
            *(Cell(short(r[name]), f"{name} = {short(r[name], 6)}") for name in objectives),
            Cell(str(r["repeats"])),
        )
        for r in front
    ]
    return TextTable(head, tuple(rows))
