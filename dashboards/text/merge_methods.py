"""Table of the merge methods with their best noises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dashboards.charts.axes import shorten
from dashboards.text.best import Cell, TextTable

if TYPE_CHECKING:
    from sweeper.analysis.curve.merge_methods import MethodCurve


def make_methods_table(curves: Sequence[MethodCurve]) -> TextTable:
    """Return one row per method, the lowest loss first."""
    head = (
        Cell("merge"),
        Cell("best noise", "noise at which the test loss of this merge is lowest"),
        Cell("90 % interval", "bootstrap over configurations"),
        Cell("test loss there [nat]", "with the 90 % band of the curve"),
        Cell("where linear is worst [nat]", "test loss at the noise of the worst linear merge, outer tenths left out"),
    )
    rows = tuple(
        (
            Cell(c.method, c.message),
            Cell(shorten(c.optimum)),
            Cell(f"{shorten(c.low)} to {shorten(c.high)}"),
            Cell("–" if c.loss is None else f"{shorten(c.loss)} ({shorten(c.loss_low)} to {shorten(c.loss_high)})"),
            Cell(shorten(c.elsewhere)),
        )
        for c in curves
    )
    return TextTable(head, rows)
