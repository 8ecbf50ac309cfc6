"""Figures of several panels with a common value axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.axes import Window, wrap_title
from dashboards.charts.chart import Measure, make_figure
from dashboards.charts.theme import GREY

MOST_COLUMNS = 3
_ROW, _FOOT, _GAP = 300, 60, 0.035


@dataclass(frozen=True)
class DrawnPanel:
    """A panel: traces, Plotly's settings of the x axis, and a note above its right end."""

    traces: Sequence[Any]
    axis: Mapping[str, Any]
    note: str = ""


def draw_panels(
    panels: Sequence[DrawnPanel], measure: Measure, view: Window, bar: Mapping[str, Any] | None = None
) -> Any:
    """Return a figure of panels with the value axis of `measure`, at most `MOST_COLUMNS` in a row.

    Args:
        panels: At least one.
        measure: The measure; its label is the title of the first column's axes.
        view: The visible part of its values.
        bar: Plotly's `coloraxis`; its bar lies above the panels.
    """
    count = len(panels)
    columns = MOST_COLUMNS if count > 4 else min(2, count)
    rows = -(-count // columns)
    top = 78 if bar else 52
    layout: dict[str, Any] = {"height": top + _FOOT + _ROW * rows, "annotations": [], "shapes": []}
    traces: list[Any] = []
    # one dictionary, since Plotly's helpers validate every axis on every update
    for i, panel in enumerate(panels):
        key = "" if i == 0 else str(i + 1)
        row, column = divmod(i, columns)
        traces += [{**_to_dict(t), "xaxis": f"x{key}", "yaxis": f"y{key}"} for t in panel.traces]
        width, height = (1 - _GAP * (columns - 1)) / columns, (1 - 0.26 * (rows - 1) / rows) / rows
        left, up = column * (width + _GAP), (rows - 1 - row) * (height + 0.26 / rows)
        layout[f"xaxis{key}"] = {**panel.axis, "domain": [left, left + width], "anchor": f"y{key}"}
        layout[f"yaxis{key}"] = {
            "domain": [up, up + height],
            "anchor": f"x{key}",
            "range": [view.low, view.high],
            "tickformat": ".1%" if measure.share else None,
            "showticklabels": column == 0,
            "title": {"text": wrap_title(measure.label) if column == 0 else None},
        }
        if panel.note:
            place = {"x": 1, "y": 1, "xref": f"x{key} domain", "yref": f"y{key} domain"}
            look = {"xanchor": "right", "yanchor": "bottom", "showarrow": False, "font": {"size": 12}}
            layout["annotations"].append({"text": panel.note, **place, **look})
        if measure.anchor == 0.0:
            line = {"type": "line", "line": {"color": GREY, "width": 1}, "layer": "below"}
            layout["shapes"].append(
                {**line, "xref": f"x{key} domain", "yref": f"y{key}", "x0": 0, "x1": 1, "y0": 0, "y1": 0}
            )
    figure: Any = make_figure(**layout, **({"coloraxis": dict(bar)} if bar else {}))
    figure.update_layout(margin={"t": top})
    figure.add_traces(traces)
    return figure


def _to_dict(trace: Any) -> dict[str, Any]:
    return trace if isinstance(trace, dict) else trace.to_plotly_json()
