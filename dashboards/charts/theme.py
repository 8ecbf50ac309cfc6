"""Light and dark Plotly templates, and colours that readers with any colour blindness can distinguish.

Figures have no template. The page, the app and the image export add one of these. A figure has the same colours in both
themes, so each colour of a mark has a contrast of at least 3 to the card of either theme, and text at least 4.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARDS: Mapping[str, str] = {"light": "#ffffff", "dark": "#1a2029"}
"""Background of figures and tables per theme."""
TEXTS: Mapping[str, str] = {"light": "#333c49", "dark": "#d5dae2"}

# Okabe & Ito's palette, distinct for every common colour blindness; the light hues are darker, to show on white
BLUE, VERMILLION, GREEN, ORANGE, GREY = "#0072b2", "#d55e00", "#009e73", "#b87800", "#8a8f98"
PINK, SKY, YELLOW = "#cc79a7", "#3a95cc", "#938600"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY, YELLOW, GREY)
SYMBOL_CYCLE = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "hexagon", "x")
COLD_TO_HOT = ("#2a78d6", "#5577c9", "#7d74b8", "#a06fa0", "#bb6a80", "#c9674f", "#d0641a")
"""Scale from little to much noise. Its luminance hardly changes, so that lines show on both cards; its hue goes from
blue to orange, which every common colour blindness distinguishes."""
FONT = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"


def fade(colour: str, opacity: float) -> str:
    """Return a colour of this module with an opacity, as `rgba(r, g, b, a)`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


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


LIGHT: Mapping[str, Any] = _make_template(TEXTS["light"], "#e4e7ec", CARDS["light"], "rgba(255, 255, 255, 0.8)")
DARK: Mapping[str, Any] = _make_template(TEXTS["dark"], "#313a46", CARDS["dark"], "rgba(26, 32, 41, 0.8)")
THEMES: Mapping[str, Mapping[str, Any]] = {"light": LIGHT, "dark": DARK}
