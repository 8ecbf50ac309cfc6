"""Content of a tab: a `View` turns a run and a selection into a `Section`, without files or clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboards.charts.chart import Chart
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.best import TextTable
from dashboards.text.settings import SettingsCard
from sweeper.analysis.scorecard.badge import Badge
from sweeper.formatting import pluralize


def split_prose(text: str) -> list[str]:
    """Return the pieces of a text; every second one is a command that was in backticks."""
    pieces = text.split("`")
    return pieces if len(pieces) % 2 else [text]


def count_notes(count: int) -> str:
    """Return the heading of the folded notes in the card of the settings."""
    return f"{pluralize(count, 'note')} on this answer"


@dataclass(frozen=True)
class Tile:
    """A number of a section's head: title, value, context and unit."""

    title: str
    value: str
    context: str
    unit: str = ""


@dataclass(frozen=True)
class TableCard:
    """A table with heading and caption; a folded one shows its heading until the reader opens it."""

    key: str
    title: str
    caption: str
    table: TextTable
    folded: bool = False


@dataclass(frozen=True)
class Control:
    """A choice that a view offers; it sets a field of the `Selection`.

    Attributes:
        field: Name of the field of `Selection`.
        label: Label.
        options: Values and labels, in order; empty for a number that the reader types.
        in_card: Whether it stands in the card of the settings instead of the bar above the tab.
    """

    field: str
    label: str
    options: tuple[tuple[str, str], ...] = ()
    in_card: bool = False


@dataclass(frozen=True)
class Hero:
    """What a reader sees first.

    Attributes:
        badge: The verdict in one word with its reason.
        chart: The figure behind it; None without one.
        settings: The settings to use; None without any.
        trouble: Why there are no settings.
        scores: The merge beside its parents.
        notes: What to know before using the settings, as sentences.
    """

    badge: Badge
    chart: Chart | None = None
    settings: SettingsCard | None = None
    trouble: str = ""
    scores: TableCard | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """The content of one tab, in reading order.

    Attributes:
        hero: What a reader sees first; None in most tabs.
        verdicts: Sentences that a researcher may quote.
        banners: Warnings to read before trusting a number, and what is still unknown.
        tiles: The numbers of the head.
        charts: Figures.
        tables: Tables.
        notes: Small print.
    """

    hero: Hero | None = None
    verdicts: tuple[str, ...] = ()
    banners: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[TableCard, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def every_chart(self) -> tuple[Chart, ...]:
        """The figures with that of the hero, in reading order."""
        first = self.hero.chart if self.hero else None
        return (first, *self.charts) if first else self.charts


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
