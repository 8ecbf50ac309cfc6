"""What one tab says and draws: a `View` turns a run and a selection into a `Section`. No files, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboards.charts.chart import Chart
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.best import TextTable


def prose(text: str) -> list[str]:
    """Return a sentence in pieces, each second one a command that stood between backticks."""
    pieces = text.split("`")
    return pieces if len(pieces) % 2 else [text]


@dataclass(frozen=True)
class Tile:
    """One number of a section's head: what it is, its value, a line of context."""

    title: str
    value: str
    context: str
    unit: str = ""


@dataclass(frozen=True)
class TableCard:
    """A table with its heading and the words above it."""

    key: str
    title: str
    caption: str
    table: TextTable


@dataclass(frozen=True)
class Control:
    """A choice that a view offers; it sets one field of the `Selection`.

    Attributes:
        field: Name of the field of `Selection`.
        label: What it chooses, for people.
        options: Values and their words, in order; empty for a number that is typed in.
    """

    field: str
    label: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """The content of one tab, in reading order.

    Attributes:
        verdicts: Sentences that a researcher may quote.
        banners: What a reader must know before trusting a number; what is not known yet, and why.
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
    """One tab.

    Attributes:
        name: As in `Selection.tab` and in the page's anchors.
        title: Heading.
        doc: One sentence on what it shows.
        controls: (run, selection) -> the choices it offers.
        build: (run, selection) -> its content.
    """

    name: str
    title: str
    doc: str
    controls: Callable[[Run, Selection], tuple[Control, ...]]
    build: Callable[[Run, Selection], Section]
