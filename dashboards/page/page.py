"""One self-contained HTML page of a run, made from its Parquet and sweep.yaml alone; it works offline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dashboards.charts.chart import arranged
from dashboards.charts.theme import THEMES
from dashboards.data.folders import Folder
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.page.html import embed_json, read_asset, render_template
from dashboards.views import VIEWS, choices, overview
from dashboards.views.section import Section, View, prose
from dashboards.views.verdicts import judge
from sweeper.storage.location import file_of, place_of
from sweeper.storage.tables import SkippedPart

TABLES = ("trials", "search", "merges", "planes")
OWN = ("overview", "landscape")
PAGE = "dashboard.html"


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
    return render_template(
        "page.html",
        title=f"{choices.sweep(run).space} · {run.name}",
        banners=run.skipped,
        content=list(content.values()),
        split_prose=prose,
        arrange=arranged,
        embed_json=embed_json,
        style=read_asset("page.css"),
        script=read_asset("page.js"),
        themes=embed_json(json.dumps(THEMES)),
        plotly=lambda: Markup(get_plotlyjs()),
    )
