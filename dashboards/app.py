"""The live app: a page whose every choice stands in its address, redrawn as the sweep's parts land."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import flask
import pyarrow.csv
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

from sweeper.spec import SpecError

from . import choices, content, grid
from .details import details, row_of
from .judged import Judges, in_background
from .listing import listed
from .live import Live
from .runs import Run
from .sections import Control
from .selection import Selection
from .views import VIEWS
from .views import trials as trials_view

TICK_MS = 1000
_HERE = Path(__file__).parent
_PAGE = """<!DOCTYPE html>
<html lang="en"><head>{%metas%}<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{%title%}</title><link rel="icon" href="data:,">{%css%}<style>STYLE</style>
<script>try { const t = localStorage.getItem("sweeper-theme"); if (t) document.documentElement.dataset.theme = t; }
catch (e) {}</script></head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""


class App:
    """What the callbacks answer; it holds no state of a reader, which is all in the address.

    Args:
        live: The runs.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self.judged = 0
        in_background(Judges(self._told))

    def _told(self) -> None:
        self.judged += 1

    def names(self, selection: Selection) -> list[str]:
        """Return the runs that are selected: the known ones, or the first."""
        known = [n for n in selection.run.split(",") if n in self.live.folders]
        return known or list(self.live.folders)[:1]

    def version(self, search: str | None) -> str:
        """Return what changes whenever anything does that a reader with this address sees."""
        try:
            run = self.live.run(self.names(Selection.from_query(search or "")))
        except SpecError as error:
            return f"error: {error}"
        return f"{run.version}.{self.judged}"

    def selection(self, search: str | None) -> tuple[Selection, tuple[str, ...]]:
        """Return what an address asks for, and a sentence on each value that is not known here."""
        asked = Selection.from_query(search or "")
        said: list[str] = []
        if asked.tab not in VIEWS:
            said.append(f"There is no tab {asked.tab!r}: this is {next(iter(VIEWS))}.")
            asked = replace(asked, tab=next(iter(VIEWS)))
        unknown = [n for n in asked.run.split(",") if n and n not in self.live.folders]
        if unknown:
            said.append(f"There is no sweep {unknown[0]!r} here: shown is {', '.join(self.names(asked))}.")
            asked = replace(asked, run=",".join(n for n in asked.run.split(",") if n in self.live.folders))
        return asked, tuple(said)

    def checked(self, run: Run, asked: Selection) -> tuple[Selection, tuple[Control, ...], tuple[str, ...]]:
        """Return the selection with unknown values at their defaults, the view's controls, and what was left out."""
        controls = VIEWS[asked.tab].controls(run, asked)
        said: list[str] = []
        for control in controls:
            value = getattr(asked, control.field)
            known = [v for v, _ in control.options]
            if value and known and value not in known:
                said.append(f"There is no {control.label} {value!r} here: the default is shown.")
                asked = replace(asked, **{control.field: ""})
        return asked, controls, tuple(said)

    def draw(
        self, search: str | None, theme: str | None, shown: Mapping[str, str] | None, version: str
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        """Return title, tabs, controls, notices, content and what is shown then; what need not change is left.

        Args:
            search: The address's query.
            theme: `light` or `dark`.
            shown: What the page shows: part -> what it depends on.
            version: See `version`.
        """
        asked, said = self.selection(search)
        before = dict(shown or {})
        try:
            run = self.live.run(self.names(asked))
            selection, controls, more = self.checked(run, asked)
        except SpecError as error:
            notice = html.Div(f"{error}. What is shown may be old; the app tries again.", className="banner")
            return no_update, no_update, no_update, [notice], no_update, no_update
        lines = (*said, *more, *run.skipped)
        parts = {
            "title": f"{run.key}",
            "tabs": repr(selection),
            "controls": f"{asked.tab} {selection} {controls} {list(self.live.folders)}",
            "notices": repr(lines),
            "content": self._depends(run, selection, theme, version),
        }
        made = {
            "title": lambda: self._title(run),
            "tabs": lambda: _tabs(selection),
            "controls": lambda: self._controls(run, selection, controls),
            "notices": lambda: [html.Div(line, className="banner") for line in lines],
            "content": lambda: self._content(run, selection, theme or "light"),
        }
        title, tabs, choice, notices, body = (
            no_update if before.get(name) == parts[name] else make() for name, make in made.items()
        )
        return title, tabs, choice, notices, body, parts

    def _depends(self, run: Run, selection: Selection, theme: str | None, version: str) -> str:
        kept = replace(selection, trial="", filter="", sort="")
        if selection.tab == "trials" and run.tables["trials"].num_rows:
            # the grid asks for its rows itself
            heads = trials_view.columns(run, selection)
            return f"{kept} {run.place} {heads}"
        return f"{kept} {theme} {run.key} {version}"

    def _title(self, run: Run) -> list[Component]:
        sweep = choices.sweep(run)
        state = "running" if run.running else "not running"
        return [html.H1(f"{sweep.space} · {run.name}"), html.Div(f"{run.place} · {state}", className="soft")]

    def _controls(self, run: Run, selection: Selection, controls: tuple[Control, ...]) -> list[Component]:
        made: list[Component] = []
        if len(self.live.folders) > 1:
            names = list(self.live.folders)
            key = {"type": "control", "field": "run", "default": names[0]}
            picked = dcc.Dropdown(id=key, options=names, value=self.names(selection), multi=True, clearable=False)
            made.append(html.Label([html.Span("sweeps"), picked], className="control wide"))
        effective = _effective(run, selection)
        plain = _effective(run, replace(Selection(), tab=selection.tab, run=selection.run))
        for control in controls:
            first = control.options[0][0] if control.options else ""
            default = plain.get(control.field) or first
            value = getattr(selection, control.field) or default
            if control.field in ("noise", "metric", "split"):
                value = effective.get(control.field) or value
            made.append(content.control(control, value, default))
        return made

    def _content(self, run: Run, selection: Selection, theme: str) -> list[Component]:
        view = VIEWS[selection.tab]
        if view.name == "trials" and run.tables["trials"].num_rows:
            return grid.trials_grid(trials_view.columns(run, selection), selection)
        revision = f"{run.place} {selection.noise} {selection.metric} {selection.split}"
        return content.section(view.build(run, selection), view.name, theme, revision)

    def rows(self, request: Mapping[str, Any] | None, search: str | None) -> tuple[Any, Any]:
        """Return the rows that the grid asks for and the words beside it."""
        if request is None:
            return no_update, no_update
        selection, _ = self.selection(search)
        run = self.live.run(self.names(selection))
        return grid.rows(run.tables["trials"], trials_view.columns(run, selection), request)

    def details(self, search: str | None, theme: str | None) -> list[Component]:
        """Return the details of the trial that is open, nothing where none is."""
        selection, _ = self.selection(search)
        if selection.tab != "trials" or not selection.trial:
            return []
        names = self.names(selection)
        row = row_of(self.live.run(names).tables["trials"], selection.trial)
        if row is None:
            return [html.Div(f"There is no trial {selection.trial!r} here.", className="banner")]
        place = self.live.folders[row.get("run") or names[0]].text
        tables = [self.live.rows_of(names, table, selection.trial) for table in ("history", "merges")]
        return content.details(details(row, place, *tables), theme or "light", replace(selection, trial=""))

    def csv(self, search: str) -> bytes:
        """Return the trials that the selection's filter leaves, in its order, with all columns, as CSV."""
        selection, _ = self.selection(search)
        trials = self.live.run(self.names(selection)).tables["trials"]
        found, _ = listed(trials, selection.filter, selection.sort)
        target = io.BytesIO()
        pyarrow.csv.write_csv(found, target)
        return target.getvalue()


def _effective(run: Run, selection: Selection) -> dict[str, str]:
    chosen = choices.choose(run, selection)
    return {"noise": chosen.noise, "metric": chosen.name, "split": chosen.split}


def _tabs(selection: Selection) -> list[Component]:
    return [
        dcc.Link(
            view.title,
            href=replace(selection, tab=name, trial="").to_query() or "?",
            title=view.doc,
            className="current" if name == selection.tab else "",
        )
        for name, view in VIEWS.items()
    ]


def _layout(app: App) -> Component:
    return html.Main(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Interval(id="tick", interval=TICK_MS),
            dcc.Store(id="theme"),
            dcc.Store(id="version", data=app.version("")),
            dcc.Store(id="shown"),
            html.Header(
                [
                    html.Div(
                        [
                            html.Div(id="title", className="title"),
                            html.Button("◐", id="theme-button", className="save", title="light or dark"),
                        ],
                        className="bar",
                    ),
                    html.Nav(id="tabs"),
                ]
            ),
            html.Div(id="controls", className="controls"),
            html.Div(id="notices"),
            html.Div(id="content"),
            html.Div(id="details"),
        ]
    )


def make_app(live: Live) -> Dash:
    """Return the app over some runs."""
    app = App(live)
    dash = Dash(
        __name__,
        title="sweeper",
        update_title="",
        assets_folder=str(_HERE / "assets"),
        suppress_callback_exceptions=True,
        index_string=_PAGE.replace("STYLE", "".join((_HERE / f).read_text() for f in ("page.css", "app.css"))),
    )
    dash.layout = lambda: _layout(app)
    _answer(dash, app)
    _in_browser(dash)

    @dash.server.get("/trials.csv")
    def csv() -> flask.Response:
        head = {"Content-Disposition": "attachment; filename=trials.csv"}
        return flask.Response(app.csv(flask.request.query_string.decode()), mimetype="text/csv", headers=head)

    return dash


def _answer(dash: Dash, app: App) -> None:
    @dash.callback(
        Output("version", "data"), Input("tick", "n_intervals"), State("url", "search"), State("version", "data"),
        prevent_initial_call=True,
    )  # fmt: skip
    def tick(_: int, search: str | None, before: str | None) -> Any:
        now = app.version(search)
        return now if now != before else no_update

    @dash.callback(
        *(Output(name, "children") for name in ("title", "tabs", "controls", "notices", "content")),
        Output("shown", "data"),
        Input("url", "search"), Input("theme", "data"), Input("version", "data"), State("shown", "data"),
    )  # fmt: skip
    def draw(search: str | None, theme: str | None, version: str, shown: Mapping[str, str] | None) -> Any:
        return app.draw(search, theme, shown, version)

    @dash.callback(
        Output("grid", "getRowsResponse"), Output("count", "children"),
        Input("grid", "getRowsRequest"), State("url", "search"),
    )  # fmt: skip
    def rows(request: Mapping[str, Any] | None, search: str | None) -> Any:
        return app.rows(request, search)

    @dash.callback(Output("details", "children"), Input("url", "search"), Input("theme", "data"))
    def open_trial(search: str | None, theme: str | None) -> Any:
        return app.details(search, theme)


def _in_browser(dash: Dash) -> None:
    def run(name: str, *wiring: Any, initial: bool = False) -> None:
        dash.clientside_callback(ClientsideFunction("sweeper", name), *wiring, prevent_initial_call=not initial)

    search, state = Output("url", "search", allow_duplicate=True), State("url", "search")
    control = {"type": "control", "field": ALL, "default": ALL}
    run("theme", Output("theme", "data"), Input("theme-button", "n_clicks"), initial=True)
    run("choose", search, Input(control, "value"), state)
    run("listed", search, Input("grid", "getRowsRequest"), state)
    run("opened", search, Input("grid", "cellClicked"), state)
    run("address", Output("csv", "href"), Input("url", "search"))
    run("refresh", Output("grid", "id"), Input("version", "data"))
