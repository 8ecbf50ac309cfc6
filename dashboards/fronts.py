"""Several objectives against each other: records in, a Plotly figure and a table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.objective import OBJECTIVES
from sweeper.report import counted

from .axes import BLUE, GREY, rounded, short, wrapped
from .best import Cell, TextTable
from .marks import Chart, describe, figure, finish, markers
from .tables import ConfigPoint


def front_chart(points: Sequence[ConfigPoint], front: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> Chart:
    """Draw the first objective against each further one: all configurations in grey, the Pareto set over them.

    Args:
        points: One record per configuration, with the objectives' columns.
        front: The records of `sweeper.pareto.pareto`.
        objectives: At least two names in `OBJECTIVES`.
    """
    first, *others = objectives
    shown = figure()
    shown.set_subplots(rows=1, cols=len(others), horizontal_spacing=0.14)
    for i, other in enumerate(others, start=1):
        _panel(shown, points, front, (first, other), i)
    columns = [OBJECTIVES[name].column for name in objectives]
    scored = sum(all(c in p.values for c in columns) for p in points)
    text = (
        f"Means over the repeats on validation. {counted(len(front), 'configuration')} of {scored}: "
        "no other one matches them in every objective and beats them in one."
    )
    return Chart("front", "Pareto set", text, finish(shown), wide=len(others) > 1)


def _panel(
    shown: Any, points: Sequence[ConfigPoint], front: Sequence[Mapping[str, Any]], names: tuple[str, str], col: int
) -> None:
    goals = [OBJECTIVES[name] for name in names]
    placed = [p for p in points if all(g.column in p.values for g in goals)]
    best = {r["config"] for r in front}
    for name, group, marker in (
        ("configuration", [p for p in placed if p.config not in best], {"size": 7, "color": GREY, "opacity": 0.6}),
        ("Pareto set", [p for p in placed if p.config in best], {"size": 9, "color": BLUE}),
    ):
        x, y = ([p.values[g.column].mean for p in group] for g in goals)
        texts = [_told(p, goals[0].column, goals[1].column) for p in group]
        shown.add_trace(markers(name, x, y, texts, marker=marker, showlegend=col == 1), row=1, col=col)
    line = sorted((r[names[0]], r[names[1]]) for r in front)
    shown.add_scatter(
        x=[rounded(x) for x, _ in line],
        y=[rounded(y) for _, y in line],
        mode="lines",
        line={"color": BLUE, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=col,
    )
    shown.update_xaxes(title={"text": wrapped(goals[0].label)}, nticks=6, row=1, col=col)
    shown.update_yaxes(title={"text": wrapped(goals[1].label)}, row=1, col=col)


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
