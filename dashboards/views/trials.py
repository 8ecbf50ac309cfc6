"""Trials: one row each, the answer's first, then best first. The app shows all, with details."""

from __future__ import annotations

import pyarrow as pa

from dashboards.charts.axes import shorten
from dashboards.data.cache import cache_by_content
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.trial_rows import STAR, Head, filter_rows, list_heads, rank_rows
from dashboards.text.best import Cell, TextTable
from dashboards.views import choices, overview
from dashboards.views.answer import find_starred
from dashboards.views.section import Control, Section, TableCard, View
from dashboards.views.verdicts import ask
from sweeper.analysis.posterior import Posterior
from sweeper.errors import SpecError
from sweeper.formatting import pluralize

SHOWN = 200


def make_controls(run: Run, selection: Selection) -> tuple[Control, ...]:
    """Return the controls: the noise of the noise column."""
    return (choices.make_noise_control(run),)


def list_columns(run: Run, selection: Selection) -> tuple[Head, ...]:
    """Return the columns to show."""
    chosen = choices.choose(run, selection)
    return list_heads(run.tables["trials"], chosen.noise, chosen.goal.column)


def list_rows(run: Run, selection: Selection) -> pa.Table:
    """Return the trials: those of the answer's configuration first, with a star, then best first."""
    question = overview.choose_question(run, selection)
    believed = Posterior()
    if question is not None and (judgement := ask(run, question)[0]) is not None:
        believed = judgement.believed
    chosen = choices.choose(run, selection)
    return _rank(run, chosen.name, find_starred(run, chosen.sweep.objective, believed))


@cache_by_content
def _rank(run: Run, name: str, starred: str | None) -> pa.Table:
    goal = choices.choose(run, Selection(metric=name)).goal
    return rank_rows(run.tables["trials"], goal, starred)


def build(run: Run, selection: Selection) -> Section:
    """Return the tab."""
    trials = run.tables["trials"]
    if not trials.num_rows:
        return Section(banners=("No trial has finished yet, so the list is empty.",))
    rows, trouble = filter_rows(list_rows(run, selection), selection.filter, selection.sort)
    shown = list_columns(run, selection)
    cells = [
        tuple(_make_cell(row[h.name]) for h in shown)
        for row in rows.slice(0, SHOWN).select([h.name for h in shown]).to_pylist()
    ]
    table = TextTable(tuple(Cell(h.text, h.doc) for h in shown), tuple(cells))
    cut = f"The first {SHOWN} of {rows.num_rows} trials; " if rows.num_rows > SHOWN else ""
    words = f"{cut}`sweeper export DIR` writes the whole table." if cut else f"{pluralize(rows.num_rows, 'trial')}."
    words += " ★ marks the configuration that the answer gives. Click a head to sort; hover over it for its meaning."
    return Section(banners=(trouble,) if trouble else (), tables=(TableCard("trials", "Trials", words, table),))


def find_troubles(run: Run, selection: Selection) -> tuple[str, ...]:
    """Return what is wrong with the filter or the order of an address; empty if both are valid."""
    trouble = filter_rows(list_rows(run, selection), selection.filter, selection.sort)[1]
    return (trouble,) if trouble else ()


class InvalidFilterError(SpecError):
    """An address holds a filter or an order that is none."""


def select_rows(run: Run, selection: Selection) -> pa.Table:
    """Return the trials that an address selects, best first, with all columns.

    Raises:
        InvalidFilterError: The filter or the order is invalid.
    """
    if not run.tables["trials"].num_rows:
        return run.tables["trials"]
    rows, trouble = filter_rows(list_rows(run, selection), selection.filter, selection.sort)
    if trouble:
        raise InvalidFilterError(f"{trouble.partition(', so ')[0]}: remove it from the address")
    return rows.drop_columns(STAR)


def _make_cell(value: object) -> Cell:
    if isinstance(value, float):
        return Cell(shorten(value), f"{value:.6g}")
    return Cell("–" if value is None else str(value))


VIEW = View(
    "trials", "Trials", "The answer's trials first, then best first, with filter and order.", make_controls, build
)
