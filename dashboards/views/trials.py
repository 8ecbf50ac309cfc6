"""Trials: one line each, as many as fit a page; the app shows them all, with filter, order and details."""

from __future__ import annotations

from dashboards.charts.axes import short
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.trial_rows import Head, heads, listed
from dashboards.text.best import Cell, TextTable
from dashboards.views import choices
from dashboards.views.section import Control, Section, TableCard, View

SHOWN = 200


def controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the choices: which definition of the noise has a column."""
    return (choices.noise_control(run),)


def columns(run: Run, selection: Selection) -> tuple[Head, ...]:
    """Return the columns that are shown."""
    chosen = choices.choose(run, selection)
    return heads(run.tables["trials"], chosen.noise, chosen.goal.column)


def build(run: Run, selection: Selection) -> Section:
    """Return the tab."""
    trials = run.tables["trials"]
    if not trials.num_rows:
        return Section(banners=("No trial has finished yet: there is nothing to list.",))
    rows, trouble = listed(trials, selection.filter, selection.sort)
    shown = columns(run, selection)
    cells = [
        tuple(_cell(row[h.name]) for h in shown)
        for row in rows.slice(0, SHOWN).select([h.name for h in shown]).to_pylist()
    ]
    table = TextTable(tuple(Cell(h.text, h.doc) for h in shown), tuple(cells))
    cut = f"The first {SHOWN} of {rows.num_rows} trials; " if rows.num_rows > SHOWN else ""
    words = f"{cut}the whole table is written by `sweeper export DIR`." if cut else f"All {rows.num_rows} trials."
    return Section(banners=(trouble,) if trouble else (), tables=(TableCard("trials", "Trials", words, table),))


def _cell(value: object) -> Cell:
    if isinstance(value, float):
        return Cell(short(value), f"{value:.6g}")
    return Cell("–" if value is None or value == "" else str(value))


VIEW = View("trials", "Trials", "Every trial: filter, order, and open one.", controls, build)
