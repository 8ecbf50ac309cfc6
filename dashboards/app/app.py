"""The live app. Its address holds all choices; it redraws as trials finish."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flask
from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component

from dashboards.app.callbacks import INNER, PARTS, App
from dashboards.app.compression import compress_response
from dashboards.app.source import SourceFolders, SweepSource
from dashboards.app.validation import DrawRequest, RowsRequest, Text, Theme, guard, validate
from dashboards.data.folders import Live
from dashboards.page.html import read_style, render_template
from dashboards.views.trials import InvalidFilterError
from sweeper.errors import SpecError

TICK_MS = 1000
_HERE = Path(__file__).parent


def _make_layout(app: App) -> Component:
    return html.Main(
        [
            dcc.Store(id="search"),
            dcc.Store(id="asked"),
            dcc.Store(id="stream", data=app.source.events if app.source is not None else ""),
            dcc.Interval(id="tick", interval=TICK_MS),
            dcc.Store(id="beat"),
            dcc.Store(id="theme"),
            dcc.Store(id="version", data=app.version("")),
            dcc.Store(id="shown"),
            html.Header(
                [
                    html.Div(
                        [
                            html.Div(id="title", className="title"),
                            html.Div(
                                [
                                    *_make_sign_out(app.source.user() if app.source is not None else ""),
                                    html.Button("◐", id="theme-button", className="save", title="light or dark"),
                                ],
                                className="saves",
                            ),
                        ],
                        className="bar",
                    ),
                    html.Nav(id="tabs"),
                ]
            ),
            html.Div(id="controls", className="controls"),
            html.Div(id="notices"),
            html.Div(id="hero"),
            html.Div(id="verdicts", className="verdicts"),
            html.Div(id="banners"),
            html.Section(id="tiles", className="tiles"),
            html.Div(id="content"),
            html.Footer(id="notes", className="soft"),
            html.Div(id="details"),
        ]
    )


def _make_sign_out(name: str) -> list[Component]:
    if not name:
        return []
    sign_out = html.Form(html.Button("sign out", className="save"), action="logout", method="post")
    return [html.Span(name, className="soft", title="signed in"), sign_out]


def make_pages(source: SweepSource) -> flask.Flask:
    """Return the WSGI application for a service's sweeps; `source` identifies the user behind a request."""
    server = make_app(Live(SourceFolders(source)), source).server
    server.after_request(compress_response)
    return server


def make_app(live: Live, source: SweepSource | None = None) -> Dash:
    """Return the app for some runs; `source` as for `App`."""
    app = App(live, source)
    dash = Dash(
        __name__,
        title="sweeper",
        update_title="",
        assets_folder=str(_HERE / "assets"),
        suppress_callback_exceptions=True,
        index_string=render_template("app.html", style=read_style()),
    )
    dash.layout = lambda: _make_layout(app)
    _add_callbacks(dash, app)
    _add_browser_callbacks(dash)
    guard(dash)
    threading.Thread(target=app.warm_up, daemon=True, name="warm-up").start()

    @dash.server.get("/trials.csv")
    def csv() -> flask.Response:
        headers = {"Content-Disposition": "attachment; filename=trials.csv"}
        try:
            content = app.export_csv(flask.request.query_string.decode(errors="replace"))
        except InvalidFilterError as error:
            return flask.Response(f"{error}\n", status=400, mimetype="text/plain")
        except SpecError as error:
            return flask.Response(f"{error}\n", status=404, mimetype="text/plain")
        if content is None:
            return flask.Response("There is no such sweep.\n", status=404, mimetype="text/plain")
        return flask.Response(content, mimetype="text/csv", headers=headers)

    return dash


def _add_callbacks(dash: Dash, app: App) -> None:
    @dash.callback(
        Output("version", "data"), Input("tick", "n_intervals"), Input("beat", "data"),
        State("search", "data"), State("version", "data"), prevent_initial_call=True,
    )  # fmt: skip
    @validate(Any, Any, Text, Text)
    def check_version(_: int | None, beat: float | None, search: str | None, before: str | None) -> Any:
        version = app.version(search)
        return version if version != before else no_update

    @dash.callback(
        *(Output(name, "children") for name in PARTS),
        *(Output({"type": part, "name": ALL}, prop) for part, prop in INNER.items()),
        Output("shown", "data"),
        Input("asked", "data"), State("shown", "data"), prevent_initial_call=True,
    )  # fmt: skip
    @validate(DrawRequest, dict[str, Any] | None)
    def draw(request: Mapping[str, str], shown: Mapping[str, str] | None) -> Any:
        parts, inner, marks = app.draw(request["search"], request["theme"], shown or {}, request["version"])
        marks = {**marks, "answer": secrets.token_hex(4)}  # a new value each time, so that the browser notices
        places = [
            [(o["id"]["type"], o["id"]["name"]) for o in outputs]
            for outputs in ctx.outputs_list[len(PARTS) :][: len(INNER)]
        ]
        return (
            *(parts.get(name, no_update) for name in PARTS),
            *([inner.get(place, no_update) for place in group] for group in places),
            marks,
        )

    @dash.callback(
        Output("grid", "getRowsResponse"), Output("count", "children"),
        Input("grid", "getRowsRequest"), State("search", "data"),
    )  # fmt: skip
    @validate(RowsRequest | None, Text)
    def rows(request: Mapping[str, Any] | None, search: str | None) -> Any:
        return app.answer_grid(request, search)

    @dash.callback(Output("details", "children"), Input("search", "data"), Input("theme", "data"))
    @validate(Text, Theme)
    def open_trial(search: str | None, theme: str | None) -> Any:
        return app.show_trial(search, theme)


def _add_browser_callbacks(dash: Dash) -> None:
    def run(name: str, *wiring: Any, initial: bool = False) -> None:
        dash.clientside_callback(ClientsideFunction("sweeper", name), *wiring, prevent_initial_call=not initial)

    search = Output("search", "data", allow_duplicate=True)
    control = {"type": "control", "field": ALL, "default": ALL}
    run("theme", Output("theme", "data"), Input("theme-button", "n_clicks"), initial=True)
    run("start", Output("search", "data"), Input("tabs", "id"), State("stream", "data"), initial=True)
    run("choose", search, Input(control, "value"), State("shown", "data"))
    wanted = (Input("search", "data"), Input("theme", "data"), Input("version", "data"))
    run("ask", Output("asked", "data"), *wanted)
    run("answered", Input("shown", "data"))
    run("listed", search, Input("grid", "getRowsRequest"))
    run("opened", search, Input("grid", "cellClicked"))
    run("address", Output("csv", "href"), Input("search", "data"))
    run("refresh", Output("grid", "id"), Input("version", "data"))
