"""The self-contained HTML page of a run, from Parquet and sweep.yaml alone; it works offline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dashboards.charts.chart import Chart, arrange
from dashboards.charts.theme import THEMES
from dashboards.data.folders import Folder
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.page.html import embed_json, read_asset, render_template
from dashboards.views import VIEWS, choices, overview
from dashboards.views.section import Section, View, count_notes, split_prose
from dashboards.views.verdicts import Judgement, judge
from sweeper.storage.location import Place, file_of, place_of
from sweeper.storage.tables import SkippedPart

TABLES = ("trials", "search", "merges", "planes")
OWN_MODEL_VIEWS = ("overview", "landscape")
PAGE = "dashboard.html"
LONG = 24
"""Longer hover texts stand on the page once."""
PLOTLY = "vendor/plotly-cartesian.min.js"
"""The part of plotly.js that the page embeds: it has neither WebGL nor 3D nor parallel-coordinates traces."""


def write_page(
    run: str | Path,
    target: str | Path | None = None,
    noise: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path | str:
    """Write the page of a run atomically and return its path or URI.

    Args:
        run: The run folder, or its URI.
        target: Path or URI of the page; `<run>/dashboard.html` by default.
        noise: Noise to show, predicted or measured; the sweep's by default.
        settings: Contents of `sweep.yaml`, for a folder without it.

    Raises:
        NotADirectoryError: `run` is not a folder.
        OSError: The page cannot be written.

    Warns:
        SkippedPart: A file of the run is corrupt or foreign; the page leaves it out and says so.
    """
    content = _read_content(run, noise)
    content = replace(content, settings=settings, spec=None) if settings else content
    return _write(content, *(file_of(target) if target is not None else (place_of(run), PAGE)))


def write_and_judge(run: str | Path) -> Judgement | None:
    """Write the page of a run and return its judgement, so that nobody analyses the same trials again.

    The judgement is that of the sweep's objective and noise; None without one. Errors and warnings are those of
    `write_page`.
    """
    content = _read_content(run, None)
    _write(content, place_of(run), PAGE)
    question, spec = overview.choose_question(content, Selection()), content.spec
    if question is None or spec is None or question[:2] != (spec.objective, spec.noise):
        return None
    return judge(content, question)


def _read_content(run: str | Path, noise: str | None) -> Run:
    if "://" not in str(run) and not Path(run).is_dir():
        raise NotADirectoryError(f"run must be a run folder, got {str(run)!r}: give the --out folder of a sweep")
    content = read_run(str(run) if "://" in str(run) else str(Path(run).resolve()), noise)
    for sentence in content.skipped:
        warnings.warn(sentence, SkippedPart, stacklevel=3)
    return content


def _write(content: Run, place: Place, name: str) -> Path | str:
    place.write(name, render_page(content, build_sections(content)).encode())
    return place.local / name if place.local else f"{place.text}/{name}"


def read_run(place: str, noise: str | None = None, redact: Callable[[str], str] = str) -> Run:
    """Return a run folder's current content.

    Args:
        place: Path or URI.
        noise: Noise to show instead of the sweep's.
        redact: Removes from a message what the user may not read.

    Raises:
        SpecError: The place cannot be reached, or is not a folder.
    """
    folder = Folder(place, noise, redact)
    for name in TABLES:
        folder.table(name)  # now, so that unreadable files are known
    return folder.run()


def build_sections(run: Run) -> dict[str, tuple[View, Section]]:
    """Return the page's sections by name, for the default selection.

    A sweep of the user's checkpoints has only the sections that need no hyperparameters.
    """
    if (question := overview.choose_question(run, Selection())) is not None:
        judge(run, question)  # now, since the views leave it to a background thread if an app runs
    own_models = choices.read_sweep(run).own_models
    return {
        v.name: (v, v.build(run, Selection())) for v in VIEWS.values() if not own_models or v.name in OWN_MODEL_VIEWS
    }


class _Texts:
    """The hover texts of all figures, each once: a configuration has the same one in a dozen figures."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}

    def pack(self, chart: Chart) -> str:
        """Return a figure as JSON with the positions of its longer hover texts in place of the texts."""
        figure = json.loads(chart.figure.to_json() or "{}")
        for trace in figure["data"]:
            if isinstance(trace.get("text"), list):
                trace["text"] = [self._find(text) for text in trace["text"]]
        return json.dumps(figure, separators=(",", ":"), ensure_ascii=False)

    def _find(self, text: Any) -> Any:
        return self.place.setdefault(text, len(self.place)) if isinstance(text, str) and len(text) > LONG else text

    def to_json(self) -> str:
        """Return the texts in order of their positions."""
        return json.dumps(list(self.place), separators=(",", ":"), ensure_ascii=False)


def render_page(run: Run, content: Mapping[str, tuple[View, Section]]) -> str:
    """Return the page as HTML.

    Args:
        run: The run.
        content: Its sections, from `build_sections`.
    """
    texts = _Texts()
    return render_template(
        "page.html",
        title=f"{choices.read_sweep(run).space} · {run.name}",
        banners=run.skipped,
        content=list(content.values()),
        split_prose=split_prose,
        count_notes=count_notes,
        arrange=arrange,
        embed_json=embed_json,
        pack=texts.pack,
        texts=texts.to_json,
        style=read_asset("page.css"),
        script=read_asset("page.js"),
        themes=embed_json(json.dumps(THEMES)),
        plotly=lambda: read_asset(PLOTLY),
    )
