"""Content of a tab: a `View` turns a run and a selection into a `Section`, without files or clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboards.charts.chart import Chart
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.best import TextTable


def split_prose(text: str) -> list[str]:
    """Return the pieces of a text; every second one is a command that was in backticks."""
    pieces = text.split("`")
    return pieces if len(pieces) % 2 else [text]


@dataclass(frozen=True)
class Tile:
    """A number of a section's head: title, value, context and unit."""

    title: str
    value: str
    context: str
    unit: str = ""


@dataclass(frozen=True)
class TableCard:
    """A table with heading and caption."""

    key: str
    title: str
    caption: str
    table: TextTable


@dataclass(frozen=True)
class Control:
    """A choice that a view offers; it sets a field of the `Selection`.

    Attributes:
        field: Name of the field of `Selection`.
        label: Label.
        options: Values and labels, in order; empty for a number that the reader types.
    """

    field: str
    label: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """The content of one tab, in reading order.

    Attributes:
        verdicts: Sentences that a researcher may quote.
        banners: Warnings to read before trusting a number, and what is still unknown.
        tiles: The numbers of the head.
        charts: Figures.
        tables: Tables.
        notes: Small print.
    """

    verdicts: tuple[str, ...] = ()
    banners: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[TableCard, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A tab.

    Attributes:
        name: Name in `Selection.tab` and in the page's anchors.
        title: Heading.
        doc: One sentence on what it shows.
        controls: (run, selection) -> its controls.
        build: (run, selection) -> its content.
    """

    name: str
    title: str
    doc: str
    controls: Callable[[Run, Selection], tuple[Control, ...]]
    build: Callable[[Run, Selection], Section]
