"""Sections as Dash components, under the same CSS classes as the static page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.app.figure_json import drawn
from dashboards.charts.chart import Chart, arranged
from dashboards.data.selection import Selection
from dashboards.text.best import Cell, TextTable
from dashboards.text.trial_details import Details
from dashboards.views.section import Control, Section, TableCard, Tile, prose

FORMATS = ("PNG", "SVG")
_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


def skeleton(content: Section, view: str) -> str:
    """Return what must be the same for a tab to be refreshed part by part; a reader's zoom and scroll stay then."""
    charts = [(c.key, c.height, c.wide) for c in arranged(content.charts)]
    return repr((view, charts, [t.key for t in content.tables]))


def cards(content: Section, view: str, theme: str, revision: str) -> list[Component]:
    """Return a tab's figures and tables.

    Args:
        content: What it says and draws.
        view: Name of the view, which tells its figures from those of others.
        theme: `light` or `dark`.
        revision: What the reader's zoom belongs to, see `dashboards.app.figure_json.drawn`.
    """
    charts = [chart(c, view, theme, revision) for c in arranged(content.charts)]
    return [html.Section([*charts, *(table_card(t) for t in content.tables)], className="cards")]


def refreshed(content: Section, view: str, theme: str, revision: str) -> dict[tuple[str, str], Any]:
    """Return (part, name) -> content of everything that `cards` has; arguments as there."""
    found: dict[tuple[str, str], Any] = {}
    for shown in content.charts:
        name = f"{view}-{shown.key}"
        found["graph", name] = drawn(shown.figure, theme, f"{name} {revision}")
        found["caption", name] = shown.caption
        found["heading", name] = shown.title
    for card in content.tables:
        found["table", card.key] = table(card.table)
    return found


def words(content: Section) -> dict[str, list[Component]]:
    """Return what stands around the figures and tables: verdicts, banners, tiles, notes."""
    return {
        "verdicts": [html.P(inline(v)) for v in content.verdicts],
        "banners": banners(content.banners),
        "tiles": [tile(t) for t in content.tiles],
        "notes": [html.P(inline(n)) for n in content.notes],
    }


def tile(shown: Tile) -> Component:
    """Return one number of the head."""
    unit = [" ", html.Span(shown.unit, className="soft")] if shown.unit else []
    return html.Div(
        [
            html.H3(shown.title),
            html.Div([shown.value, *unit], className="value"),
            html.Div(shown.context, className="soft"),
        ],
        className="tile",
    )


def chart(shown: Chart, view: str, theme: str, revision: str, kind: str = "") -> Component:
    """Return one figure with its heading, its words and the buttons that save it; `kind` sets its parts' ids apart."""
    name = f"{view}-{shown.key}"

    def part(what: str) -> dict[str, str]:
        return {"type": kind + what, "name": name}

    saved = [_save_button(f) for f in FORMATS]
    image = {"format": "png", "filename": f"sweeper-{name}", "scale": 2}
    config: Any = {**_CONFIG, "toImageButtonOptions": image}
    return html.Article(
        [
            html.Div([html.H3(shown.title, id=part("heading")), html.Div(saved, className="saves")], className="head"),
            html.P(shown.caption, id=part("caption"), className="soft"),
            dcc.Graph(
                id=part("graph"),
                figure=drawn(shown.figure, theme, f"{name} {revision}"),
                config=config,
                style={"height": f"{shown.height}px"},
                className="plot",
            ),
        ],
        className="card wide" if shown.wide else "card",
        key=name,
    )


def _save_button(name: str) -> Component:
    data: dict[str, Any] = {"data-format": name.lower()}
    return html.Button(name, className="save", title=f"save the figure as {name}", **data)


def banners(lines: Sequence[str]) -> list[Component]:
    """Return what the reader is to know first, a box each."""
    return [html.Div(inline(line), className="banner") for line in lines]


def table_card(card: TableCard) -> Component:
    """Return a table with its heading and its words."""
    return html.Article(
        [
            html.H3(card.title),
            html.P(inline(card.caption), className="soft"),
            html.Div(html.Table(table(card.table), id={"type": "table", "name": card.key}), className="scroll"),
        ],
        className="card wide",
        id=card.key,
        key=card.key,
    )


def table(shown: TextTable) -> list[Component]:
    """Return head and body of a table."""
    head = [html.Thead(html.Tr([_cell(html.Th, c) for c in shown.head]))] if shown.rows else []
    return [*head, html.Tbody([html.Tr([_cell(html.Td, c) for c in row]) for row in shown.rows])]


def _cell(tag: Any, cell: Cell) -> Component:
    return tag(inline(cell.text), title=cell.title) if cell.title else tag(inline(cell.text))


def inline(text: str) -> Any:
    """Return a sentence with its commands as code."""
    pieces = prose(text)
    return text if len(pieces) == 1 else [html.Code(piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def control(shown: Control, value: str, default: str) -> Component:
    """Return one choice: a list, or a number that is typed in; it says which value needs no word in the address."""
    key = {"type": "control", "field": shown.field, "default": default}
    if shown.options:
        options = [{"value": v, "label": words} for v, words in shown.options]
        choice = dcc.Dropdown(id=key, options=options, value=value, clearable=False, searchable=len(options) > 8)
    else:
        choice = dcc.Input(id=key, value=value, type="number", min=1, step=1, debounce=0.4, placeholder="any")
    return html.Label([html.Span(shown.label), choice], className="control")


def details(shown: Details, theme: str, closed: Selection) -> list[Component]:
    """Return the details of a trial; `closed` is the selection without it."""
    charts = [chart(c, "trial", theme, shown.digest, "own-") for c in arranged(shown.charts)]
    facts = [html.Div([html.Span(name, className="soft"), html.B(value)]) for name, value in shown.facts]
    return [
        html.Article(
            [
                html.Div(
                    [html.H3(shown.title), html.A("close", href=closed.to_query() or "?", className="go save")],
                    className="head",
                ),
                html.P(f"Outcome: {shown.sentence}"),
                *(html.Div(w, className="banner") for w in shown.warnings),
                html.Div(facts, className="facts"),
                *_again(shown.command),
                html.Details([html.Summary("The whole spec"), html.Pre(shown.spec)]),
            ],
            className="card wide",
        ),
        html.Section(charts, className="cards"),
    ]


def _again(command: str) -> list[Any]:
    if not command:
        return [html.P("It was trained elsewhere: it cannot be run again here.", className="soft")]
    copied = dcc.Clipboard(target_id="command", title="copy")
    return [
        html.P("Run it again and compare the numbers:", className="soft"),
        html.Div([html.Code(command, id="command"), copied], className="command"),
    ]
