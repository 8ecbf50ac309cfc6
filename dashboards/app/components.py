"""Sections as Dash components, under the same CSS classes as the static page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.app.figure_json import make_figure_json
from dashboards.charts.chart import Chart, arrange
from dashboards.data.selection import Selection
from dashboards.text.best import Cell, TextTable
from dashboards.text.settings import Fact
from dashboards.text.trial_details import Details
from dashboards.views.overview import BATCH_SIZE
from dashboards.views.section import Control, Hero, Section, TableCard, Tile, count_notes, split_prose
from sweeper.analysis.scorecard.badge import Badge

FORMATS = ("PNG", "SVG")
_CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}


def describe_layout(content: Section, view: str) -> str:
    """Return a text that stays the same while a tab can be refreshed in place, with its zoom and scroll."""
    charts = [(c.key, c.height, c.wide) for c in arrange(content.every_chart)]
    return repr((view, charts, [t.key for t in content.tables], _list_panels(content.hero)))


def _list_panels(hero: Hero | None) -> list[str]:
    return [] if hero is None else ["chart"] * bool(hero.chart) + ["scores"] * bool(hero.scores)


def make_cards(content: Section, view: str, theme: str, revision: str) -> list[Component]:
    """Return a tab's figures and tables.

    Args:
        content: The tab's section.
        view: Name of the view; the ids of its figures start with it.
        theme: `light` or `dark`.
        revision: Key of the reader's zoom, see `dashboards.app.figure_json.make_figure_json`.
    """
    charts = [make_chart(c, view, theme, revision) for c in arrange(content.charts)]
    shown = [c for c in charts if not isinstance(c, html.Details)]
    folded = [c for c in charts if isinstance(c, html.Details)]
    tables = sorted(content.tables, key=lambda t: t.folded)
    return [html.Section([*shown, *(make_table_card(t) for t in tables), *folded], className="cards")]


def make_hero(content: Section, view: str, theme: str, revision: str, batch_size: str) -> list[Component]:
    """Return what a reader sees first; nothing in a tab without it.

    Args:
        content: The tab's section.
        view: Name of the view.
        theme: `light` or `dark`.
        revision: Key of the reader's zoom.
        batch_size: The reader's batch size.
    """
    hero = content.hero
    if hero is None:
        return []
    settings = html.Article(
        [
            html.Div([html.H3("Use this"), make_control(BATCH_SIZE, batch_size, "")], className="head"),
            html.Div(make_settings(hero), id={"type": "panel", "name": "settings"}),
        ],
        className="card use",
        id="use",
    )
    cards: list[Component] = [settings]
    if hero.chart is not None:
        cards.append(make_chart(hero.chart, view, theme, revision, look="card curve"))
    if hero.scores is not None:
        cards.append(make_table_card(hero.scores, look="card scores"))
    return [
        html.Div(make_badge(hero.badge), id={"type": "panel", "name": "badge"}),
        html.Div(cards, className="hero"),
    ]


def make_badge(badge: Badge) -> list[Component]:
    """Return the verdict in one word with its reason."""
    look = f"badge {badge.word.lower().replace(' ', '-')}"
    return [html.Div([html.B(badge.word), " ", html.Span(format_inline(badge.reason))], className=look)]


def make_settings(hero: Hero) -> list[Component]:
    """Return the settings to use with the answer's notes, or why there are none."""
    notes = _make_caveats((*(hero.settings.notes if hero.settings else ()), *hero.notes))
    if hero.settings is None:
        return [html.P(format_inline(hero.trouble), className="soft"), *notes]
    choice = hero.settings.choices[hero.settings.chosen]
    facts = [
        html.Div([html.Dt(f.name), html.Dd([f.value, *([" ", html.Span(f.more, className="soft")] if f.more else [])])])
        for f in (Fact("batch size", str(choice.batch_size)), *choice.facts)
    ]
    return [
        *([html.P(choice.expected, className="expect")] if choice.expected else []),
        html.Dl(facts),
        dcc.Clipboard(content=choice.code, title="copy the code", className="copy"),
        html.Details(
            [
                html.Summary("code and caveats" if choice.warns else "code", className="soft"),
                html.Pre(html.Code(choice.code)),
                html.P(choice.note, className="soft warns" if choice.warns else "soft"),
            ]
        ),
        *notes,
    ]


def _make_caveats(notes: Sequence[str]) -> list[Component]:
    """Return the notes of the card, which fold on a phone; nothing without any."""
    if not notes:
        return []
    lines = [html.P(format_inline(n), className="soft note") for n in notes]
    return [html.Details([html.Summary(count_notes(len(notes)), className="soft"), *lines], className="caveats")]


def refresh_parts(content: Section, view: str, theme: str, revision: str) -> dict[tuple[str, str], Any]:
    """Return (part, name) -> content of all figures and tables; arguments as for `make_cards`."""
    parts: dict[tuple[str, str], Any] = {}
    if content.hero is not None:
        parts["panel", "badge"] = make_badge(content.hero.badge)
        parts["panel", "settings"] = make_settings(content.hero)
        if content.hero.scores is not None:
            parts["table", content.hero.scores.key] = make_table(content.hero.scores.table)
    for shown in content.every_chart:
        name = f"{view}-{shown.key}"
        parts["graph", name] = make_figure_json(shown.figure, theme, f"{name} {revision}")
        parts["caption", name] = shown.caption
        parts["heading", name] = shown.title
    for card in content.tables:
        parts["table", card.key] = make_table(card.table)
    return parts


def make_texts(content: Section) -> dict[str, list[Component]]:
    """Return the parts around the figures and tables: verdicts, banners, tiles, notes."""
    return {
        "verdicts": [html.P(format_inline(v)) for v in content.verdicts],
        "banners": make_banners(content.banners),
        "tiles": [make_tile(t) for t in content.tiles],
        "notes": [html.P(format_inline(n)) for n in content.notes],
    }


def make_tile(shown: Tile) -> Component:
    """Return a tile: one number with its title and context."""
    unit = [" ", html.Span(shown.unit, className="soft")] if shown.unit else []
    return html.Div(
        [
            html.H3(shown.title),
            html.Div([shown.value, *unit], className="value"),
            html.Div(shown.context, className="soft"),
        ],
        className="tile",
    )


def make_chart(
    shown: Chart, view: str, theme: str, revision: str, kind: str = "", look: str = ""
) -> html.Article | html.Details:
    """Return a figure with heading, caption and save buttons.

    Args:
        shown: The figure.
        view: Name of the view.
        theme: `light` or `dark`.
        revision: Key of the reader's zoom.
        kind: Prefix of the ids of its parts.
        look: Class of the card; by default that of a narrow or wide card.
    """
    name = f"{view}-{shown.key}"

    def part(what: str) -> dict[str, str]:
        return {"type": kind + what, "name": name}

    buttons = [_make_save_button(f) for f in FORMATS]
    image = {"format": "png", "filename": f"sweeper-{name}", "scale": 2}
    config: Any = {**_CONFIG, "toImageButtonOptions": image}
    title = html.H3(shown.title, id=part("heading"))
    caption = html.P(shown.caption, id=part("caption"), className="soft")
    graph = dcc.Graph(
        id=part("graph"),
        figure=make_figure_json(shown.figure, theme, f"{name} {revision}"),
        config=config,
        style={"height": f"{shown.height}px", "minWidth": f"{shown.least_width}px"},
        className="plot",
    )
    look = look or ("card wide" if shown.wide else "card")
    if shown.folded:
        return html.Details([html.Summary(title), caption, graph], className=look, key=name)
    head = html.Div([title, html.Div(buttons, className="saves")], className="head")
    body = [graph, caption] if "curve" in look else [caption, graph]
    return html.Article([head, *body], className=look, key=name)


def _make_save_button(name: str) -> Component:
    data: dict[str, Any] = {"data-format": name.lower()}
    return html.Button(name, className="save", title=f"save the figure as {name}", **data)


def make_banners(lines: Sequence[str]) -> list[Component]:
    """Return one box per notice."""
    return [html.Div(format_inline(line), className="banner") for line in lines]


def make_table_card(card: TableCard, look: str = "card wide") -> Component:
    """Return a table with its heading and caption; `look` is the class of its card."""
    caption = html.P(format_inline(card.caption), className="soft")
    table = html.Div(html.Table(make_table(card.table), id={"type": "table", "name": card.key}), className="scroll")
    if card.folded:
        summary = html.Summary(html.H3(card.title))
        return html.Details([summary, caption, table], className=look, id=card.key, key=card.key)
    body = [table, caption] if "scores" in look else [caption, table]
    return html.Article([html.H3(card.title), *body], className=look, id=card.key, key=card.key)


def make_table(shown: TextTable) -> list[Component]:
    """Return head and body of a table."""
    head = [html.Thead(html.Tr([_make_cell(html.Th, c) for c in shown.head]))] if shown.rows and shown.head else []
    return [*head, html.Tbody([html.Tr([_make_cell(html.Td, c) for c in row]) for row in shown.rows])]


def _make_cell(tag: Any, cell: Cell) -> Component:
    more = {k: v for k, v in (("title", cell.title), ("className", cell.look)) if v}
    return tag(format_inline(cell.text), **more)


def format_inline(text: str) -> Any:
    """Return a sentence with its commands as code."""
    pieces = split_prose(text)
    return text if len(pieces) == 1 else [html.Code(piece) if i % 2 else piece for i, piece in enumerate(pieces)]


def make_control(shown: Control, value: str, default: str) -> Component:
    """Return a choice: a list, or an input for a number; its id holds the default, which the address leaves out."""
    key = {"type": "control", "field": shown.field, "default": default}
    if shown.options:
        options = [{"value": v, "label": label} for v, label in shown.options]
        choice = dcc.Dropdown(id=key, options=options, value=value, clearable=False, searchable=len(options) > 8)
    else:
        choice = dcc.Input(id=key, value=value, type="number", min=1, step=1, debounce=0.4, placeholder="any")
    return html.Label([html.Span(shown.label), choice], className="control")


def make_details(shown: Details, theme: str, closed: Selection) -> list[Component]:
    """Return the details of a trial; `closed` is the selection without the trial."""
    charts = [make_chart(c, "trial", theme, shown.digest, "own-") for c in arrange(shown.charts)]
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
                *_make_rerun(shown.command),
                html.Details([html.Summary("Complete spec"), html.Pre(shown.spec)]),
            ],
            className="card wide",
        ),
        html.Section(charts, className="cards"),
    ]


def _make_rerun(command: str) -> list[Any]:
    if not command:
        return [html.P("This trial was trained elsewhere and cannot run again here.", className="soft")]
    clipboard = dcc.Clipboard(target_id="command", title="copy")
    return [
        html.P("Run this trial again and compare the numbers:", className="soft"),
        html.Div([html.Code(command, id="command"), clipboard], className="command"),
    ]
