"""Trials: one row each. The page shows the first ones; the app shows all, with filter, order and details."""

from __future__ import annotations

from dashboards.charts.axes import shorten
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.trial_rows import Head, filter_rows, list_heads
from dashboards.text.best import Cell, TextTable
from dashboards.views import choices
from dashboards.views.section import Control, Section, TableCard, View

SHOWN = 200


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: the noise of the noise column."""
    return (choices.make_noise_control(run),)


def list_columns(run: Run, selection: Selection) -> tuple[Head, ...]:
    """Return the columns to show."""
    chosen = choices.choose(run, selection)
    return list_heads(run.tables["trials"], chosen.noise, chosen.goal.column)


def build(run: Run, selection: Selection) -> Section:
    """Return the tab."""
    trials = run.tables["trials"]
    if not trials.num_rows:
        return Section(banners=("No trial has finished yet, so the list is empty.",))
    rows, trouble = filter_rows(trials, selection.filter, selection.sort)
    shown = list_columns(run, selection)
    cells = [
        tuple(_make_cell(row[h.name]) for h in shown)
        for row in rows.slice(0, SHOWN).select([h.name for h in shown]).to_pylist()
    ]
    table = TextTable(tuple(Cell(h.text, h.doc) for h in shown), tuple(cells))
    cut = f"The first {SHOWN} of {rows.num_rows} trials; " if rows.num_rows > SHOWN else ""
    words = f"{cut}`sweeper export DIR` writes the whole table." if cut else f"All {rows.num_rows} trials."
    return Section(banners=(trouble,) if trouble else (), tables=(TableCard("trials", "Trials", words, table),))


def _make_cell(value: object) -> Cell:
    if isinstance(value, float):
        return Cell(shorten(value), f"{value:.6g}")
    return Cell("–" if value is None or value == "" else str(value))


VIEW = View("trials", "Trials", "All trials, with filter, order and details.", make_controls, build)
