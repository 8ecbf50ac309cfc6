"""Image files of a run's figures. Kaleido draws them in a local browser, without the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboards.charts.chart import Chart, arrange
from dashboards.charts.theme import LIGHT
from dashboards.data.runs import Run
from dashboards.page.page import build_sections
from sweeper.errors import SpecError

SCALE = 2
WIDTHS = {True: 1200, False: 700}
FORMATS = ("png", "svg")


def write_pictures(run: Run, folder: Path, kind: str) -> list[Path]:
    """Write every figure of the page as an image in the light theme; return the files in the page's order.

    Args:
        run: The run.
        folder: Target folder, created if missing.
        kind: `png`, at twice its size, or `svg`.

    Raises:
        SpecError: Kaleido or a browser is missing, or the folder is not writable.
    """
    try:
        import kaleido
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise SpecError(f"images need {error.name}: run `pip install 'sweeper[dashboard]'`") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write to {folder}: {error.strerror or error}") from None
    wanted = [
        (name, chart) for name, (_, content) in build_sections(run).items() for chart in arrange(content.every_chart)
    ]
    files = [folder / f"{_make_stem(view, chart.key)}.{kind}" for view, chart in wanted]
    drawings = [_make_drawing(chart, file, kind) for (_, chart), file in zip(wanted, files, strict=True)]
    try:
        # mathjax needs the network, and no figure has a formula
        kaleido.write_fig_from_object_sync(_iterate(drawings), cancel_on_error=True, kopts={"mathjax": False})
    except (ChromeNotFoundError, BrowserFailedError):
        raise SpecError("images need a browser: put Chrome or Chromium on the PATH") from None
    return files


def _make_stem(view: str, key: str) -> str:
    name = key.replace("_", "-")
    return view if name == view else f"{view}-{name}"


def _make_drawing(chart: Chart, file: Path, kind: str) -> dict[str, Any]:
    plain = chart.figure.to_plotly_json()
    template = {"layout": {**LIGHT["layout"], "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff"}}
    plain["layout"] = {**plain["layout"], "template": template}
    size = {"width": WIDTHS[chart.wide], "height": chart.height, "scale": SCALE if kind == "png" else 1}
    return {"fig": plain, "path": file, "opts": {"format": kind, **size}}


def _iterate(drawings: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from drawings
