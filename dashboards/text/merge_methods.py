"""Tables of the merge methods with their best noises, and of the windows of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dashboards.charts.axes import shorten
from dashboards.text.best import Cell, TextTable
from sweeper.formatting import method_words

if TYPE_CHECKING:
    from sweeper.analysis.curve.merge_methods import MethodCurve
    from sweeper.analysis.curve.windows import Change, WindowEffect


def make_methods_table(curves: Sequence[MethodCurve]) -> TextTable:
    """Return one row per method, the lowest loss first."""
    head = (
        Cell("merge"),
        Cell("best noise", "noise at which the test loss of this merge is lowest"),
        Cell("90 % interval", "bootstrap over configurations"),
        Cell("test loss there [nat]", "with the 90 % band of the curve"),
        Cell(
            "where linear is worst [nat]",
            "test loss at the noise of the worst linear merge, outer tenths left out, with the 90 % band of the curve",
        ),
    )
    rows = tuple(
        (
            Cell(method_words(c.method), c.message),
            Cell(shorten(c.optimum)),
            Cell(f"{shorten(c.low)} to {shorten(c.high)}"),
            _make_band(c.loss, c.loss_low, c.loss_high),
            _make_band(c.elsewhere, c.elsewhere_low, c.elsewhere_high),
        )
        for c in curves
    )
    return TextTable(head, rows)


def _make_band(loss: float | None, low: float | None, high: float | None) -> Cell:
    return Cell("–" if loss is None else f"{shorten(loss)} ({shorten(low)} to {shorten(high)})")


def make_windows_table(effects: Sequence[WindowEffect]) -> TextTable:
    """Return one row per window, the last weights first."""
    head = (
        Cell("checkpoints", "last checkpoints in each child's mean; 1 is the last weights"),
        Cell("trials", "viable trials with this window"),
        Cell("children alone [nat]", "test loss of A and B, mean"),
        Cell("change", "paired by trial, with the 90 % interval"),
        Cell("their merge [nat]", "test loss of the linear merge with equal weights"),
        Cell("change", "paired by trial, with the 90 % interval"),
    )
    rows = tuple(
        (
            Cell(str(e.window)), Cell(str(e.trials)), Cell(shorten(e.parents)), _make_change(e.parents_change),
            Cell(shorten(e.merged)), _make_change(e.merged_change),
        )
        for e in effects
    )  # fmt: skip
    return TextTable(head, rows)


def _make_change(change: Change | None) -> Cell:
    if change is None:
        return Cell("–")
    interval = "" if change.low is None else f" ({shorten(change.low)} to {shorten(change.high)})"
    return Cell(f"{change.mean:+.3g}{interval}")
