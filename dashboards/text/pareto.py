"""Figure and table of the Pareto set of several objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.axes import Window, fit_window, make_log_axis, round_to, shorten, wrap_title
from dashboards.charts.chart import Chart, describe, finish, make_figure, make_markers
from dashboards.charts.theme import BLUE, GREY
from dashboards.data.configurations import ConfigPoint
from dashboards.text.best import Cell, TextTable
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES, Objective


def draw_front(points: Sequence[ConfigPoint], front: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> Chart:
    """Draw the first objective against the others: configurations in grey, the Pareto set in blue.

    Args:
        points: One record per configuration, with the objectives' columns.
        front: Records from `sweeper.analysis.best.find_pareto_set`.
        objectives: At least two names in `OBJECTIVES`.
    """
    first, *others = objectives
    placed = [p for p in points if all(OBJECTIVES[name].column in p.values for name in objectives)]
    sides = {name: _make_side(placed, OBJECTIVES[name]) for name in objectives}
    figure = make_figure()
    figure.set_subplots(rows=1, cols=len(others), horizontal_spacing=0.14)
    for col, other in enumerate(others, start=1):
        _add_panel(figure, placed, front, (sides[first], sides[other]), col)
        figure.update_xaxes(sides[first].axis, row=1, col=col)
        figure.update_yaxes(sides[other].axis, row=1, col=col)
    text = (
        f"Validation means over the repeats. {pluralize(len(front), 'configuration')} of {len(placed)} in the set: no "
        "other one matches them in every objective and beats them in one."
    )
    if clipped := sum(any(not s.shows(p) for s in sides.values()) for p in placed):
        text += f" {pluralize(clipped, 'configuration')} outside the frame, at its edge."
    return Chart("front", "Pareto set", text, finish(figure), wide=len(others) > 1)


@dataclass(frozen=True)
class _Side:
    """An axis: the objective's column, Plotly settings, and the window; None shows all values."""

    column: str
    axis: Mapping[str, Any]
    view: Window | None

    def shows(self, point: ConfigPoint) -> bool:
        return self.view is None or self.view.shows(point.values[self.column].mean)

    def place(self, point: ConfigPoint) -> float:
        return point.values[self.column].mean if self.view is None or self.shows(point) else self.view.edge


def _make_side(points: Sequence[ConfigPoint], goal: Objective) -> _Side:
    values, title = [p.values[goal.column].mean for p in points], wrap_title(goal.label)
    if not goal.capped and min(values) > 0:  # for a cost, ratios count
        return _Side(goal.column, make_log_axis(values, title, most=6), None)
    view = fit_window(values, None, goal.maximize)
    return _Side(goal.column, {"title": {"text": title}, "range": [view.low, view.high], "nticks": 6}, view)


def _add_panel(
    figure: Any, points: Sequence[ConfigPoint], front: Sequence[Mapping[str, Any]], sides: tuple[_Side, _Side], col: int
) -> None:
    best = {r["config"] for r in front}
    x, y = sides
    for name, group, marker in (
        ("configuration", [p for p in points if p.config not in best], {"size": 7, "color": GREY, "opacity": 0.6}),
        ("Pareto set", [p for p in points if p.config in best], {"size": 9, "color": BLUE}),
    ):
        texts = [_describe(p, x.column, y.column) for p in group]
        places = [x.place(p) for p in group], [y.place(p) for p in group]
        figure.add_trace(make_markers(name, *places, texts, marker=marker, showlegend=col == 1), row=1, col=col)
    line = sorted((x.place(p), y.place(p)) for p in points if p.config in best)
    figure.add_scatter(
        x=[round_to(a) for a, _ in line],
        y=[round_to(b) for _, b in line],
        mode="lines",
        line={"color": BLUE, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=col,
    )


def _describe(point: ConfigPoint, column: str, other: str) -> str:
    return f"{describe(point, column)}<br>{other} {shorten(point.values[other].mean, 4)}"


def make_front_table(front: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> TextTable:
    """Return a table of the Pareto set, sorted by the first objective."""
    head = (
        Cell("trial", "position of the configuration in its sweep; hover over the number for the digest"),
        *(Cell(OBJECTIVES[name].label, OBJECTIVES[name].column) for name in objectives),
        Cell("repeats", "number of repeats in the means"),
    )
    rows = [
        (
            Cell("–" if r["number"] is None else str(r["number"]), f"digest of the best repeat {r['digest']}"),
            *(Cell(shorten(r[name]), f"{name} = {shorten(r[name], 6)}") for name in objectives),
            Cell(str(r["repeats"])),
        )
        for r in front
    ]
    return TextTable(head, tuple(rows))
