"""Figures as the browser gets them: in the light or dark theme, small, fast to draw, steady under refreshes."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dashboards.charts.theme import THEMES

MANY = 800
"""Markers of one trace above which WebGL draws them."""


def drawn(figure: go.Figure, theme: str, revision: str) -> dict[str, Any]:
    """Return a figure as the browser gets it.

    Args:
        figure: Without a theme.
        theme: `light` or `dark`.
        revision: What the reader's zoom belongs to: it is kept as long as this stays the same.
    """
    plain = figure.to_plotly_json()
    layout = {**plain["layout"], "template": THEMES[theme], "uirevision": revision}
    return {"data": [_trace(t) for t in plain["data"]], "layout": layout}


def _trace(trace: Mapping[str, Any]) -> dict[str, Any]:
    light = {k: _typed(v) for k, v in trace.items()}
    if light.get("type", "scatter") == "scatter" and trace.get("mode") == "markers" and _length(trace) > MANY:
        light["type"] = "scattergl"
    return light


def _length(trace: Mapping[str, Any]) -> int:
    x: Any = trace.get("x")
    return 0 if x is None or isinstance(x, Mapping) else len(x)


def _typed(value: Any) -> Any:
    # long lists of numbers travel as base64 of their bytes: a third of the text, and nothing to parse
    if isinstance(value, Mapping):
        return {k: _typed(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype.kind not in "fiu" else value
    if isinstance(value, list | tuple) and len(value) > 200 and all(isinstance(v, int | float | None) for v in value):
        value = np.array([np.nan if v is None else v for v in value])
    if isinstance(value, np.ndarray) and value.ndim == 1:
        data = value.astype("<f8")
        return {"dtype": "f8", "bdata": base64.b64encode(data.tobytes()).decode()}
    return value
