"""One self-contained HTML page of a run, made from its Parquet and sweep.yaml alone; it works offline."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import yaml
from plotly.offline import get_plotlyjs

from sweeper.belief import Belief, belief
from sweeper.objective import OBJECTIVES
from sweeper.runfolder import stored_spec
from sweeper.spec import SpecError, SweepSpec
from sweeper.store import SkippedPart, read, read_trials

from .best import Cell, TextTable
from .marks import Chart
from .report import Report, Tile, report

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
    if not run.is_dir():
        raise NotADirectoryError(f"a run folder is needed, got {str(run)!r}: give the --out folder of a sweep")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SkippedPart)
        tables = {"trials": read_trials(run), "merges": read(run, "merges"), "search": read(run, "search")}
    spec = None if settings else _spec(run)
    settings = settings or _settings(run)
    if noise is not None:
        settings = {**(settings or {}), "noise": noise}
    believed = belief(spec, tables["trials"], noise) if spec else Belief()
    text = render(report(settings, tables, spec, believed), run.resolve().name, [str(w.message) for w in caught])
    target = Path(target) if target is not None else run / PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    for warning in caught:
        warnings.warn(warning.message, category=warning.category, stacklevel=2)
    return target


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


def render(content: Report, name: str, skipped: Sequence[str] = ()) -> str:
    """Return the page as HTML.

    Args:
        content: What it says and draws.
        name: Name of the run folder.
        skipped: Sentences on files that were left out.
    """
    title = f"{content.sweep.space} · {name}"
    banners = [*content.banners, *skipped]
    body = [
        f"<header><h1>{escape(title)}</h1>",
        *(f"<p>{escape(v)}</p>" for v in content.verdicts),
        "</header>",
        *(f'<div class="banner">{escape(b)}</div>' for b in banners),
        '<section class="tiles">',
        *map(_tile, content.tiles),
        "</section>",
        '<section class="cards">',
        *map(_card, _arranged(content.charts)),
        *_tables(content),
        "</section>",
        '<footer class="soft">',
        *(f"<p>{escape(n)}</p>" for n in content.notes),
        "</footer>",
    ]
    return _document(title, "\n".join(body), draws=bool(content.charts))


def _document(title: str, body: str, draws: bool) -> str:
    # without a figure there is nothing for plotly.js to do; its 4 MB stay out
    scripts = f"<script>{get_plotlyjs()}</script>\n<script>{_asset('page.js')}</script>" if draws else ""
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
        f'<div class="tile"><h2>{escape(tile.title)}</h2><div class="value">{escape(tile.value)}{unit}</div>'
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
        f'<article class="card{" wide" if wide else ""}"><h2>{escape(chart.title)}</h2>'
        f'<p class="soft">{escape(chart.caption)}</p>'
        f'<div class="plot" id="{place}" style="height:{chart.height}px"></div>'
        f'<script type="application/json" id="{place}-data">{data}</script></article>'
    )


def _cells(tag: str, cells: Sequence[Cell]) -> str:
    titles = [f' title="{escape(c.title)}"' if c.title else "" for c in cells]
    return "".join(f"<{tag}{t}>{escape(c.text)}</{tag}>" for t, c in zip(titles, cells, strict=True))


def _tables(content: Report) -> list[str]:
    objective = content.sweep.objective
    best = (
        "Ordered by the objective on validation, ★ the best by posterior mean; losses [nat] and accuracies are of the "
        "test split, means over the ok repeats. Rest the mouse on a head or a number for its meaning."
        if content.best.rows
        else "No viable configuration yet."
    )
    tables = [_table("best", f"Best configurations by {objective}", best, content.best)]
    if content.front.rows:
        words = "No other configuration matches these in every objective and beats them in one; means over the repeats."
        tables.append(_table("front-table", "Pareto set", words, content.front))
    if content.exponents.rows:
        words = "As the definition of the noise has them, and as the model of the trials fits them."
        tables.append(_table("exponents", "Exponents of the noise", words, content.exponents))
    for name, found in content.recommended.items():
        words = (
            f"For {OBJECTIVES[name].label.split(' [')[0]}: learning rates at its best noise, with momentum and weight "
            "decay of its best trial; ▲ marks step sizes beyond the stability limit that was seen."
        )
        title = f"Hyperparameters that reach the best noise of {name}"
        tables.append(_table(f"recommended-{name}", title, words, found))
    return tables


def _table(key: str, title: str, words: str, table: TextTable) -> str:
    head = f"<thead><tr>{_cells('th', table.head)}</tr></thead>" if table.rows else ""
    rows = "\n".join(f"<tr>{_cells('td', row)}</tr>" for row in table.rows)
    return (
        f'<article class="card wide" id="{key}"><h2>{escape(title)}</h2><p class="soft">{escape(words)}</p>'
        f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div></article>'
    )
