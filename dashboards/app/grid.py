"""The list of trials as an AG Grid. It requests only the rows on screen, so 10,000 trials cost as much as 100."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import dash_ag_grid as dag
import pyarrow as pa
from dash import html
from dash.development.base_component import Component

from dashboards.charts.axes import round_to
from dashboards.data.selection import Selection
from dashboards.data.trial_rows import STAR, Head, filter_rows
from sweeper.formatting import pluralize

BLOCK = 200
_WIDE = {"outcome": 130, "outcome_detail": 260, "warnings": 260, "digest": 170}
_NARROWEST = 92
_LETTER, _AROUND = 8.2, 50
"""Width of a bold letter, and of the filter button with the padding [px]."""
# the stylesheet sets the colours, light and dark
_THEME = (
    "themeQuartz.withParams({backgroundColor: 'var(--card)', foregroundColor: 'var(--text)', "
    "borderColor: 'var(--line)', headerBackgroundColor: 'var(--card)', accentColor: 'var(--accent)', "
    "chromeBackgroundColor: 'var(--card)', oddRowBackgroundColor: 'var(--card)', fontSize: 13, spacing: 5, "
    "fontFamily: 'inherit', headerFontWeight: 600, "
    "browserColorScheme: 'inherit'})"
)
_COLUMN = {"sortable": True, "resizable": True, "minWidth": 70, "wrapHeaderText": True, "autoHeaderHeight": True}
_OPTIONS = {
    "theme": {"function": _THEME},
    "cacheBlockSize": BLOCK,
    "maxBlocksInCache": 20,
    "rowBuffer": 0,
    "rowHeight": 30,
    "tooltipShowDelay": 300,
    "rowSelection": {"mode": "singleRow", "checkboxes": False, "enableClickSelection": True},
    "suppressMenuHide": True,
}


def make_grid(heads: Sequence[Head], selection: Selection) -> list[Component]:
    """Return the grid with its head line, filtered and sorted as the selection says."""
    return [
        html.Div(
            [
                html.Span(id="count", className="soft"),
                html.A("save as CSV", id="csv", href=f"trials.csv{selection.to_query()}", className="save"),
            ],
            className="head",
        ),
        dag.AgGrid(
            id="grid",
            columnDefs=[_make_column(h, _read_order(selection)) for h in heads],
            defaultColDef=_COLUMN,
            filterModel=_read_filter(selection.filter),
            rowModelType="infinite",
            getRowId="params.data.digest",
            dashGridOptions=_OPTIONS,
            className="grid",
            style={"height": "min(62vh, 640px)", "width": "100%"},
            dangerously_allow_code=False,
        ),
    ]


def _read_order(selection: Selection) -> Mapping[str, tuple[str, int]]:
    try:
        return {s["colId"]: (s["sort"], i) for i, s in enumerate(json.loads(selection.sort or "[]"))}
    except (ValueError, KeyError, TypeError):
        return {}


def _read_filter(text: str) -> dict[str, Any]:
    try:
        model = json.loads(text or "{}")
    except ValueError:
        return {}
    return model if isinstance(model, dict) else {}


def _make_column(head: Head, order: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    is_text = head.kind == "str"
    column: dict[str, Any] = {
        "field": head.name,
        "headerName": head.text,
        "headerTooltip": head.doc,
        "filter": "agTextColumnFilter" if is_text else "agNumberColumnFilter",
        "filterParams": {"debounceMs": 250, "buttons": ["reset"]},
        "width": _WIDE.get(head.name, _measure_width(head.text)),
        "type": None if is_text else "rightAligned",
        "valueFormatter": {"function": "shortNumber(params.value)"} if head.kind == "float" else None,
    }
    if head.name in (STAR, "number"):
        column["pinned"] = "left"
    if head.name == STAR:
        column |= {"width": 44, "minWidth": 44, "filter": False}
    if head.name in ("outcome_detail", "warnings"):
        column["tooltipField"] = head.name
    if head.name in order:
        column["sort"], column["sortIndex"] = order[head.name]
    return {k: v for k, v in column.items() if v is not None}


def _measure_width(heading: str) -> int:
    # a heading breaks only between words
    return max(_NARROWEST, round(_AROUND + _LETTER * max(len(word) for word in heading.split())))


def answer_request(trials: pa.Table, heads: Sequence[Head], request: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the rows that the grid requests, and a text with the number of trials.

    Args:
        trials: The trials table.
        heads: The columns on screen.
        request: `startRow`, `endRow`, `filterModel`, `sortModel` from the grid.
    """
    filtered, _ = filter_rows(
        trials, json.dumps(request.get("filterModel") or {}), json.dumps(request.get("sortModel") or [])
    )
    first, last = int(request.get("startRow", 0)), int(request.get("endRow", BLOCK))
    names = dict.fromkeys([*(h.name for h in heads), "digest"])
    page = filtered.slice(first, max(0, last - first)).select(list(names)).to_pylist()
    data = [{k: round_to(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in page]
    total, left = trials.num_rows, filtered.num_rows
    every = pluralize(total, "trial", form=",d")
    count = every if left == total else f"{left:,} of {every}"
    return {"rowData": data, "rowCount": left}, f"{count} · click a row for details, a column menu to filter"
