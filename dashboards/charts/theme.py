"""Light and dark Plotly templates, and colours that readers with any colour blindness can distinguish.

Figures have no template. The page, the app and the image export add one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Okabe & Ito's palette, distinct for every common colour blindness, on white and on near-black
BLUE, VERMILLION, GREEN, ORANGE, GREY = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#8a8f98"
PINK, SKY, YELLOW = "#cc79a7", "#56b4e9", "#b8a800"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY, YELLOW, GREY)
SYMBOL_CYCLE = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"


def _make_template(text: str, grid: str, card: str, shade: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "linecolor": text, "tickcolor": text, "showline": True}
    return {
        "layout": {
            "font": {"color": text, "size": 12.5, "family": FONT},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {"bgcolor": card, "bordercolor": text, "font": {"color": text}, "align": "left"},
            "xaxis": axis,
            "yaxis": axis,
            "colorway": list(CYCLE),
            "annotationdefaults": {"bgcolor": shade},
        }
    }


LIGHT: Mapping[str, Any] = _make_template("#333c49", "#e4e7ec", "#ffffff", "rgba(255, 255, 255, 0.8)")
DARK: Mapping[str, Any] = _make_template("#d5dae2", "#313a46", "#1a2029", "rgba(26, 32, 41, 0.8)")
THEMES: Mapping[str, Mapping[str, Any]] = {"light": LIGHT, "dark": DARK}
