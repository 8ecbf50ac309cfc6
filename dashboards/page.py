"""One self-contained HTML page of a run, made from its Parquet and sweep.yaml alone; it works offline."""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import yaml
from plotly.offline import get_plotlyjs

from sweeper.runfolder import stored_spec
from sweeper.spec import SpecError, SweepSpec
from sweeper.store import SkippedPart, read, read_trials

from . import choices
from .best import Cell
from .marks import Chart
from .report import head
from .runs import Run
from .sections import Section, TableCard, Tile
from .selection import Selection
from .theme import THEMES
from .views import VIEWS

TABLES = ("merges", "search", "planes")
OWN = ("overview", "landscape")
PAGE = "dashboard.html"
_HERE = Path(__file__).parent


def write_page(
    run: Path, target: Path | None = None, noise: str | None = None, settings: Mapping[str, Any] | None = None
) -> Path:
    """Write the page of a run and return where it is.

    The page is whole at every moment: it is written under another name and renamed.

    Args:
        run: The run folder.
        target: Where to write; `<run>/dashboard.html` by default.
        noise: Noise to show, predicted or measured; the sweep's by default.
        settings: Contents of `sweep.yaml`, for a folder without it.

    Raises:
        NotADirectoryError: `run` is no folder.
        OSError: The page cannot be written.

    Warns:
        SkippedPart: A file of the run is corrupt or foreign; the page is made without it and says so.
    """
    run = Path(run)
    found = read_run(run, settings)
    text = render(found, sections(found, noise or ""))
    target = Path(target) if target is not None else run / PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_run(run: Path, settings: Mapping[str, Any] | None = None) -> Run:
    """Read a run folder as it is now.

    Args:
        run: The run folder.
        settings: Contents of `sweep.yaml`, for a folder without it.

    Raises:
        NotADirectoryError: `run` is no folder.

    Warns:
        SkippedPart: A file is corrupt or foreign.
    """
    if not run.is_dir():
        raise NotADirectoryError(f"a run folder is needed, got {str(run)!r}: give the --out folder of a sweep")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SkippedPart)
        tables = {"trials": read_trials(run)} | {name: read(run, name) for name in TABLES}
    for warning in caught:
        warnings.warn(warning.message, category=warning.category, stacklevel=3)
    place, skipped = run.resolve(), tuple(str(w.message) for w in caught)
    spec = None if settings else _spec(run)
    return Run(place.name, str(place), settings or _settings(run), spec, tables, skipped, version=uuid.uuid4().hex)


def sections(run: Run, noise: str = "") -> dict[str, tuple[str, str, Section]]:
    """Return the page's sections: name -> title, one sentence on it, content.

    Of a user's own checkpoints only what needs no hyperparameters is there.

    Args:
        run: The run.
        noise: Noise to show; the sweep's by default.
    """
    selection = Selection(noise=noise)
    own = choices.sweep(run).own
    found = {v.name: (v.title, v.doc, v.build(run, selection)) for v in VIEWS.values() if not own or v.name in OWN}
    if "overview" in VIEWS:
        return found
    return {"overview": ("Overview", "", head(run, noise or choices.sweep(run).noise)), **found}


def _spec(run: Path) -> SweepSpec | None:
    try:
        return stored_spec(run)
    except SpecError:  # the page of a folder whose settings are lost says so
        return None


def _settings(run: Path) -> Mapping[str, Any] | None:
    try:
        found = yaml.safe_load((run / "sweep.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None


def render(run: Run, content: Mapping[str, tuple[str, str, Section]]) -> str:
    """Return the page as HTML.

    Args:
        run: Its name and what was left out of it.
        content: What `sections` returns for it.
    """
    title = f"{choices.sweep(run).space} · {run.name}"
    links = [f'<a href="#{escape(name)}">{escape(words)}</a>' for name, (words, _, _) in content.items()]
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        *(f'<div class="banner">{escape(b)}</div>' for b in run.skipped),
        f"<nav>{''.join(links)}</nav>" if len(links) > 1 else "",
        *(_section(name, *found) for name, found in content.items()),
    ]
    return _document(title, "\n".join(body), draws=any(s.charts for _, _, s in content.values()))


def _section(name: str, title: str, doc: str, content: Section) -> str:
    about = f'<p class="soft">{escape(doc)}</p>' if doc else ""
    parts = [
        f'<section class="view" id="{escape(name)}"><h2>{escape(title)}</h2>{about}',
        *(f"<p>{escape(v)}</p>" for v in content.verdicts),
        *(f'<div class="banner">{escape(b)}</div>' for b in content.banners),
        f'<div class="tiles">{"".join(map(_tile, content.tiles))}</div>' if content.tiles else "",
        '<div class="cards">',
        *map(_card, _arranged(content.charts)),
        *map(_table, content.tables),
        "</div>",
        *(f'<p class="soft">{escape(n)}</p>' for n in content.notes),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


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


def _arranged(charts: Sequence[Chart]) -> list[tuple[Chart, bool]]:
    # two narrow charts share a row; one that would stand alone takes the whole width
    arranged: list[tuple[Chart, bool]] = []
    row: list[Chart] = []
    for chart in charts:
        if chart.wide:
            arranged += [(c, True) for c in row] + [(chart, True)]
            row = []
        elif row:
            arranged += [(replace(c, height=max(row[0].height, chart.height)), False) for c in (row[0], chart)]
            row = []
        else:
            row = [chart]
    return arranged + [(c, True) for c in row]


def _card(arranged: tuple[Chart, bool]) -> str:
    chart, wide = arranged
    place = f"plot-{escape(chart.key)}"
    # "</" would end the script element that holds the data
    data = str(chart.figure.to_json()).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return (
        f'<article class="card{" wide" if wide else ""}"><h3>{escape(chart.title)}</h3>'
        f'<p class="soft">{escape(chart.caption)}</p>'
        f'<div class="plot" id="{place}" style="height:{chart.height}px"></div>'
        f'<script type="application/json" id="{place}-data">{data}</script></article>'
    )


def _cells(tag: str, cells: Sequence[Cell]) -> str:
    titles = [f' title="{escape(c.title)}"' if c.title else "" for c in cells]
    return "".join(f"<{tag}{t}>{escape(c.text)}</{tag}>" for t, c in zip(titles, cells, strict=True))


def _table(card: TableCard) -> str:
    head = f"<thead><tr>{_cells('th', card.table.head)}</tr></thead>" if card.table.rows else ""
    rows = "\n".join(f"<tr>{_cells('td', row)}</tr>" for row in card.table.rows)
    return (
        f'<article class="card wide" id="{escape(card.key)}"><h3>{escape(card.title)}</h3>'
        f'<p class="soft">{escape(card.caption)}</p>'
        f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div></article>'
    )
