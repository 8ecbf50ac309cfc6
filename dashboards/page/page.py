"""One self-contained HTML page of a run, made from its Parquet and sweep.yaml alone; it works offline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from dashboards.charts.chart import Chart, arranged
from dashboards.charts.theme import THEMES
from dashboards.data.folders import Folder
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.best import Cell
from dashboards.views import VIEWS, choices, overview
from dashboards.views.section import Section, TableCard, Tile, View, prose
from dashboards.views.verdicts import judge
from sweeper.storage.location import file_of, place_of
from sweeper.storage.tables import SkippedPart

TABLES = ("trials", "search", "merges", "planes")
OWN = ("overview", "landscape")
PAGE = "dashboard.html"
_HERE = Path(__file__).parent


def write_page(
    run: str | Path,
    target: str | Path | None = None,
    noise: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path | str:
    """Write the page of a run and return where it is; the page is whole at every moment.

    Args:
        run: The run folder, or its URI.
        target: Path or URI of the file to write; `<run>/dashboard.html` by default.
        noise: Noise to show, predicted or measured; the sweep's by default.
        settings: Contents of `sweep.yaml`, for a folder without it.

    Raises:
        NotADirectoryError: `run` is no folder.
        OSError: The page cannot be written.

    Warns:
        SkippedPart: A file of the run is corrupt or foreign; the page is made without it and says so.
    """
    if "://" not in str(run) and not Path(run).is_dir():
        raise NotADirectoryError(f"a run folder is needed, got {str(run)!r}: give the --out folder of a sweep")
    found = read_run(str(run) if "://" in str(run) else str(Path(run).resolve()), noise)
    for sentence in found.skipped:
        warnings.warn(sentence, SkippedPart, stacklevel=2)
    found = replace(found, settings=settings, spec=None) if settings else found
    text = render(found, sections(found))
    place, name = file_of(target) if target is not None else (place_of(run), PAGE)
    place.write(name, text.encode())
    return place.local / name if place.local else f"{place.text}/{name}"


def read_run(place: str, noise: str | None = None, outward: Callable[[str], str] = str) -> Run:
    """Read a run folder as it is now.

    Args:
        place: Path or URI.
        noise: Noise to show instead of the sweep's.
        outward: Turns a message into what whoever asks may read.

    Raises:
        SpecError: The place cannot be reached, or is no folder.
    """
    folder = Folder(place, noise, outward)
    for name in TABLES:
        folder.table(name)  # now, so that what is left out of them is known
    return folder.run()


def sections(run: Run) -> dict[str, tuple[View, Section]]:
    """Return the page's sections by name, of the default selection.

    Of a user's own checkpoints only what needs no hyperparameters is there.
    """
    if (asked := overview.question(run, Selection())) is not None:
        judge(run, asked)  # now: where an app runs, the views only have it judged later
    own = choices.sweep(run).own
    return {v.name: (v, v.build(run, Selection())) for v in VIEWS.values() if not own or v.name in OWN}


def render(run: Run, content: Mapping[str, tuple[View, Section]]) -> str:
    """Return the page as HTML.

    Args:
        run: Its name and what was left out of it.
        content: What `sections` returns for it.
    """
    title = f"{choices.sweep(run).space} · {run.name}"
    links = [f'<a href="#{escape(name)}">{escape(view.title)}</a>' for name, (view, _) in content.items()]
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        *(f'<div class="banner">{_prose(b)}</div>' for b in run.skipped),
        f"<nav>{''.join(links)}</nav>" if len(links) > 1 else "",
        *(_section(*found) for found in content.values()),
    ]
    return _document(title, "\n".join(body), draws=any(s.charts for _, s in content.values()))


def _section(view: View, content: Section) -> str:
    parts = [
        f'<section class="view" id="{escape(view.name)}"><h2>{escape(view.title)}</h2>',
        f'<p class="soft">{escape(view.doc)}</p>',
        *(f"<p>{_prose(v)}</p>" for v in content.verdicts),
        *(f'<div class="banner">{_prose(b)}</div>' for b in content.banners),
        f'<div class="tiles">{"".join(map(_tile, content.tiles))}</div>' if content.tiles else "",
        '<div class="cards">',
        *map(_card, arranged(content.charts)),
        *map(_table, content.tables),
        "</div>",
        *(f'<p class="soft">{_prose(n)}</p>' for n in content.notes),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def style() -> str:
    """Return the stylesheet of pages and app."""
    return _asset("page.css") + _asset("app.css")


def _document(title: str, body: str, draws: bool) -> str:
    # without a figure there is nothing for plotly.js to do; its 4 MB stay out
    themes = f'<script type="application/json" id="themes">{json.dumps(THEMES)}</script>'
    scripts = f"{themes}\n<script>{get_plotlyjs()}</script>\n<script>{_asset('page.js')}</script>" if draws else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{scripts}\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _tile(tile: Tile) -> str:
    unit = f' <span class="soft">{escape(tile.unit)}</span>' if tile.unit else ""
    return (
        f'<div class="tile"><h3>{escape(tile.title)}</h3><div class="value">{escape(tile.value)}{unit}</div>'
        f'<div class="soft">{escape(tile.context)}</div></div>'
    )


def _card(chart: Chart) -> str:
    place = f"plot-{escape(chart.key)}"
    # "</" would end the script element that holds the data
    data = str(chart.figure.to_json()).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return (
        f'<article class="card{" wide" if chart.wide else ""}"><h3>{escape(chart.title)}</h3>'
        f'<p class="soft">{escape(chart.caption)}</p>'
        f'<div class="plot" id="{place}" style="height:{chart.height}px"></div>'
        f'<script type="application/json" id="{place}-data">{data}</script></article>'
    )


def _prose(text: str) -> str:
    pieces = map(escape, prose(text))
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))


def _cells(tag: str, cells: Sequence[Cell]) -> str:
    titles = [f' title="{escape(c.title)}"' if c.title else "" for c in cells]
    return "".join(f"<{tag}{t}>{_prose(c.text)}</{tag}>" for t, c in zip(titles, cells, strict=True))


def _table(card: TableCard) -> str:
    head = f"<thead><tr>{_cells('th', card.table.head)}</tr></thead>" if card.table.rows else ""
    rows = "\n".join(f"<tr>{_cells('td', row)}</tr>" for row in card.table.rows)
    return (
        f'<article class="card wide" id="{escape(card.key)}"><h3>{escape(card.title)}</h3>'
        f'<p class="soft">{_prose(card.caption)}</p>'
        f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div></article>'
    )
