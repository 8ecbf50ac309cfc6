"""Figures as JSON for the browser: small, fast to draw, in a light or dark theme, with zoom kept on refresh."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboards.charts.theme import THEMES

MANY = 800
"""Largest number of markers per trace that SVG draws; WebGL draws more."""


def make_figure_json(figure: go.Figure, theme: str, revision: str) -> dict[str, Any]:
    """Return a figure as JSON for the browser.

    Args:
        figure: Figure without a theme.
        theme: `light` or `dark`.
        revision: Key of the reader's zoom: the zoom stays as long as the key does.
    """
    plain = figure.to_plotly_json()
    layout = {**plain["layout"], "template": THEMES[theme], "uirevision": revision}
    return {"data": [_shrink_trace(t) for t in plain["data"]], "layout": layout}


def _shrink_trace(trace: Mapping[str, Any]) -> dict[str, Any]:
    light = {k: _shrink(v) for k, v in trace.items()}
    if light.get("type", "scatter") == "scatter" and trace.get("mode") == "markers" and _count_points(trace) > MANY:
        light["type"] = "scattergl"
    return light


def _count_points(trace: Mapping[str, Any]) -> int:
    x: Any = trace.get("x")
    return 0 if x is None or isinstance(x, Mapping) else len(x)


def _shrink(value: Any) -> Any:
    # base64 of a long list of numbers is a third of the text, and needs no parsing
    if isinstance(value, Mapping):
        return {k: _shrink(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype.kind not in "fiu" else value
    if isinstance(value, list | tuple) and len(value) > 200 and all(isinstance(v, int | float | None) for v in value):
        value = np.array([np.nan if v is None else v for v in value])
    if isinstance(value, np.ndarray) and value.ndim == 1:
        data = value.astype("<f8")
        return {"dtype": "f8", "bdata": base64.b64encode(data.tobytes()).decode()}
    return value
