"""The live app: a page whose every choice stands in its address, redrawn as the sweep's parts land."""

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
from dashboards.app.compression import packed
from dashboards.app.source import Offer, OfferedFolders
from dashboards.app.validation import Asked, RowsAsked, Text, Theme, guard, taking
from dashboards.data.folders import Live
from dashboards.page.html import read_style, render_template
from sweeper.errors import SpecError

TICK_MS = 1000
_HERE = Path(__file__).parent


def _layout(app: App) -> Component:
    return html.Main(
        [
            dcc.Store(id="search"),
            dcc.Store(id="asked"),
            dcc.Store(id="stream", data=app.offer.events if app.offer is not None else ""),
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
                                    *_signed_in(app.offer.asker() if app.offer is not None else ""),
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
            html.Div(id="verdicts", className="verdicts"),
            html.Div(id="banners"),
            html.Section(id="tiles", className="tiles"),
            html.Div(id="content"),
            html.Footer(id="notes", className="soft"),
            html.Div(id="details"),
        ]
    )


def _signed_in(name: str) -> list[Component]:
    if not name:
        return []
    leave = html.Form(html.Button("sign out", className="save"), action="logout", method="post")
    return [html.Span(name, className="soft", title="signed in"), leave]


def make_pages(offer: Offer) -> flask.Flask:
    """Return the app over a service's sweeps as a WSGI application; requests run where `offer` knows who asks."""
    server = make_app(Live(OfferedFolders(offer)), offer).server
    server.after_request(packed)
    return server


def make_app(live: Live, offer: Offer | None = None) -> Dash:
    """Return the app over some runs; `offer` as for `App`."""
    app = App(live, offer)
    dash = Dash(
        __name__,
        title="sweeper",
        update_title="",
        assets_folder=str(_HERE / "assets"),
        suppress_callback_exceptions=True,
        index_string=render_template("app.html", style=read_style()),
    )
    dash.layout = lambda: _layout(app)
    _answer(dash, app)
    _in_browser(dash)
    guard(dash)
    threading.Thread(target=app.warm, daemon=True, name="warm").start()

    @dash.server.get("/trials.csv")
    def csv() -> flask.Response:
        head = {"Content-Disposition": "attachment; filename=trials.csv"}
        try:
            found = app.csv(flask.request.query_string.decode(errors="replace"))
        except SpecError as error:
            return flask.Response(f"{error}\n", status=404, mimetype="text/plain")
        if found is None:
            return flask.Response("There is no such sweep here.\n", status=404, mimetype="text/plain")
        return flask.Response(found, mimetype="text/csv", headers=head)

    return dash


def _answer(dash: Dash, app: App) -> None:
    @dash.callback(
        Output("version", "data"), Input("tick", "n_intervals"), Input("beat", "data"),
        State("search", "data"), State("version", "data"), prevent_initial_call=True,
    )  # fmt: skip
    @taking(Any, Any, Text, Text)
    def tick(_: int | None, beat: float | None, search: str | None, before: str | None) -> Any:
        now = app.version(search)
        return now if now != before else no_update

    @dash.callback(
        *(Output(name, "children") for name in PARTS),
        *(Output({"type": part, "name": ALL}, prop) for part, prop in INNER.items()),
        Output("shown", "data"),
        Input("asked", "data"), State("shown", "data"), prevent_initial_call=True,
    )  # fmt: skip
    @taking(Asked, dict[str, Any] | None)
    def draw(asked: Mapping[str, str], shown: Mapping[str, str] | None) -> Any:
        parts, inner, marks = app.draw(asked["search"], asked["theme"], shown or {}, asked["version"])
        marks = {**marks, "answer": secrets.token_hex(4)}  # it differs each time, so that the browser hears of it
        there = ctx.outputs_list[len(PARTS) : len(PARTS) + len(INNER)]
        places = [[(o["id"]["type"], o["id"]["name"]) for o in outputs] for outputs in there]
        return (
            *(parts.get(name, no_update) for name in PARTS),
            *([inner.get(place, no_update) for place in group] for group in places),
            marks,
        )

    @dash.callback(
        Output("grid", "getRowsResponse"), Output("count", "children"),
        Input("grid", "getRowsRequest"), State("search", "data"),
    )  # fmt: skip
    @taking(RowsAsked | None, Text)
    def rows(request: Mapping[str, Any] | None, search: str | None) -> Any:
        return app.rows(request, search)

    @dash.callback(Output("details", "children"), Input("search", "data"), Input("theme", "data"))
    @taking(Text, Theme)
    def open_trial(search: str | None, theme: str | None) -> Any:
        return app.details(search, theme)


def _in_browser(dash: Dash) -> None:
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
