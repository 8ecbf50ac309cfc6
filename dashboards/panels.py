"""Figures of several panels that share one value axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .axes import Window, wrapped
from .marks import Measure, figure
from .theme import GREY

MOST_COLUMNS = 3
_ROW, _FOOT = 300, 60


def grid(count: int, bar: Mapping[str, Any] | None = None) -> tuple[Any, Callable[[int], dict[str, int]]]:
    """Return an empty figure of `count` panels, and panel -> where it is, as Plotly wants it.

    Args:
        count: Number of panels, at least 1.
        bar: Plotly's `coloraxis`, whose bar lies above the panels.
    """
    columns = MOST_COLUMNS if count > 4 else min(2, count)
    rows = -(-count // columns)
    shown: Any = figure(coloraxis=dict(bar)) if bar else figure()
    gaps = {"horizontal_spacing": 0.035, "vertical_spacing": 0.26 / rows}
    shown.set_subplots(rows=rows, cols=columns, shared_yaxes=True, **gaps)
    top = 78 if bar else 52
    shown.update_layout(margin={"t": top}, height=top + _FOOT + _ROW * rows)
    return shown, lambda i: {"row": i // columns + 1, "col": i % columns + 1}


def value_axes(shown: Any, measure: Measure, view: Window) -> None:
    """Give every panel the window of the values, and the first column their title."""
    shown.update_yaxes(range=[view.low, view.high], tickformat=".1%" if measure.share else None)
    shown.update_yaxes(title={"text": wrapped(measure.label)}, col=1)
    if measure.anchor == 0.0:
        shown.add_hline(y=0, line={"color": GREY, "width": 1}, layer="below")
