"""The figures of a run as picture files, drawn by kaleido in a browser on this machine; nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboards.charts.chart import Chart, arranged
from dashboards.charts.theme import LIGHT
from dashboards.data.runs import Run
from dashboards.page.page import sections
from sweeper.errors import SpecError

SCALE = 2
WIDTHS = {True: 1200, False: 700}
FORMATS = ("png", "svg")


def write_pictures(run: Run, folder: Path, kind: str) -> list[Path]:
    """Write every figure of the page as a picture, in the light theme, and return the files in the page's order.

    Args:
        run: The run.
        folder: Where to; it is made where it is missing.
        kind: `png`, at twice its size, or `svg`.

    Raises:
        SpecError: kaleido or a browser is missing, or the folder cannot be written to.
    """
    try:
        import kaleido
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise SpecError(f"pictures need {error.name}: pip install -e '.[dashboard]' in sweeper's checkout") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write to {folder}: {error.strerror or error}") from None
    wanted = [(name, chart) for name, (_, content) in sections(run).items() for chart in arranged(content.charts)]
    files = [folder / f"{_stem(view, chart.key)}.{kind}" for view, chart in wanted]
    drawings = [_drawing(chart, file, kind) for (_, chart), file in zip(wanted, files, strict=True)]
    try:
        # mathjax would come from the network, and no figure has a formula for it
        kaleido.write_fig_from_object_sync(_each(drawings), cancel_on_error=True, kopts={"mathjax": False})
    except (ChromeNotFoundError, BrowserFailedError):
        raise SpecError("pictures need a browser: put Chrome or Chromium on the PATH") from None
    return files


def _stem(view: str, key: str) -> str:
    name = key.replace("_", "-")
    return view if name == view else f"{view}-{name}"


def _drawing(chart: Chart, file: Path, kind: str) -> dict[str, Any]:
    plain = chart.figure.to_plotly_json()
    template = {"layout": {**LIGHT["layout"], "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff"}}
    plain["layout"] = {**plain["layout"], "template": template}
    size = {"width": WIDTHS[chart.wide], "height": chart.height, "scale": SCALE if kind == "png" else 1}
    return {"fig": plain, "path": file, "opts": {"format": kind, **size}}


def _each(drawings: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from drawings
