"""A service's list of sweeps, and the head of one of them, as Dash components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboards.app.source import Listed
from dashboards.charts.axes import short
from dashboards.data.selection import Selection
from dashboards.data.words import words
from dashboards.views.section import Control
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES

ALL = "all"
UNDER_WAY = ("queued", "starting", "running", "stopping")
ENDED = ("done", "failed", "cancelled", "interrupted")
GROUPS = {ALL: ("all", ()), "open": ("waiting or running", UNDER_WAY), "ended": ("ended", ENDED)}
SHOWN = 100
_HEAD = ("sweep", "state", "progress", "best noise", "best value", "owner", "sent")
_TOKEN = "Your token goes into SWEEPER_TOKEN. "
_SEND = "sweeper --server {} run digits_cnn --trials 20"


def states(name: str) -> tuple[str, ...]:
    """Return the states that a choice stands for; none for all, and for a choice that is not known."""
    if name in GROUPS:
        return GROUPS[name][1]
    return (name,) if name in (*UNDER_WAY, *ENDED) else ()


def controls(owners: Sequence[str]) -> tuple[Control, ...]:
    """Return the choices of the list: the state, and the owner where there are several."""
    named = tuple((name, words) for name, (words, _) in GROUPS.items())
    found = Control("state", "state", (*named, *((s, s) for s in (*UNDER_WAY, *ENDED))))
    if len(owners) < 2:
        return (found,)
    return found, Control("owner", "owner", ((ALL, "all"), *((o, o) for o in owners)))


def table(sweeps: Sequence[Listed], selection: Selection, now: datetime) -> list[Component]:
    """Return the list.

    Args:
        sweeps: What it lists, one more than `SHOWN` where there are older ones.
        selection: What the reader chose.
        now: From which ages are counted.
    """
    shown = sweeps[:SHOWN]
    links: list[Component] = []
    if selection.before:
        links.append(html.A("newest", href=replace(selection, before="").to_query() or "?", className="go save"))
    if len(sweeps) > SHOWN:
        older = replace(selection, before=shown[-1].id).to_query()
        links.append(html.A("older", href=older, className="go save"))
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in _HEAD]))
    rows = html.Tbody([_row(sweep, now) for sweep in shown])
    listed = html.Article(html.Table([head, rows], className="sweeps", id="sweeps"), className="card wide")
    return [listed, html.Div(links, className="older")]


def empty(selection: Selection, address: str, asker: str) -> list[Component]:
    """Return what stands in place of an empty list: how the first sweep is sent, or that the filter leaves none."""
    if selection.state or selection.owner or selection.before:
        said = [html.H3("No sweep fits this choice"), html.A("show all sweeps", href="?", className="go")]
        return [html.Article(said, className="card wide empty")]
    return [
        html.Article(
            [
                html.H3("There is no sweep yet"),
                html.P("Send the first one from any machine that reaches this address:"),
                html.Div(html.Code(_SEND.format(address)), className="command"),
                html.P(f"{_TOKEN if asker else ''}It appears here at once, its trials as they land.", className="soft"),
            ],
            className="card wide empty",
        )
    ]


def head(sweep: Listed | None, title: str, called: str, now: datetime) -> list[Component]:
    """Return the head of a sweep's page: the way back, what it is, how far it is.

    Args:
        sweep: The sweep; None where several are read as one.
        title: What is shown.
        called: What commands call it.
        now: From which ages are counted.
    """
    back = html.A("← all sweeps", href="?", className="go back")
    if sweep is None:
        return [back, html.H1(title), html.Div(called, className="soft")]
    facts = [pill(sweep.state), _progress(sweep), html.Span(_whose(sweep)), html.Span(_age(sweep, now))]
    reason = [html.Div(sweep.reason, className="soft")] if sweep.reason and sweep.state != "done" else []
    return [
        back,
        html.H1(title),
        html.Div(facts, className="soft standing"),
        *reason,
        html.Div(called, className="soft place"),
    ]


def waiting(sweep: Listed) -> str:
    """Return what stands in place of the figures of a sweep that has no folder yet."""
    if sweep.state == "queued":
        place = f" at place {sweep.position}" if sweep.position else ""
        return f"This sweep waits in the queue{place}: its trials appear here as they land."
    if sweep.state in UNDER_WAY:
        return "This sweep is being started: its trials appear here as they land."
    return "This sweep ended before its first trial: there is nothing to draw."


def pill(state: str) -> Component:
    """Return a state as a coloured word."""
    return html.Span(state, className=f"pill {state}")


def _row(sweep: Listed, now: datetime) -> Component:
    where = [html.Div(f"place {sweep.position} in the queue", className="soft")] if sweep.position else []
    where += [html.Div(sweep.reason, className="soft why", title=sweep.reason)] if _tells(sweep) else []
    name = html.A(sweep.name, href=Selection(run=sweep.id).to_query(), className="go name")
    cells: list[list[Any]] = [
        [name, html.Div(sweep.space if sweep.name == sweep.id else f"{sweep.space} · {sweep.id}", className="soft")],
        [pill(sweep.state), *where],
        [_progress(sweep)],
        _noise(sweep),
        _best(sweep),
        [_whose(sweep)],
        [html.Span(_age(sweep, now), title=f"{sweep.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC")],
    ]
    pairs = zip(_HEAD, cells, strict=True)
    # a narrow page stacks the cells, each behind its heading
    return html.Tr([html.Td(cell, **_labelled(label)) for label, cell in pairs], key=sweep.id)


def _labelled(label: str) -> dict[str, Any]:
    return {"data-label": label}


def _tells(sweep: Listed) -> bool:
    return bool(sweep.reason) and sweep.state in ("failed", "cancelled", "interrupted")


def _whose(sweep: Listed) -> str:
    return f"{sweep.owner} · shared" if sweep.shared else sweep.owner


def _progress(sweep: Listed) -> Component:
    budget = max(sweep.budget, sweep.done + sweep.failed, 1)
    said = f"{sweep.done:,} of {sweep.budget:,}" + (f", {sweep.failed:,} failed" if sweep.failed else "")
    parts = [(sweep.done, "done"), (sweep.failed, "failed")]
    filled = [html.I(className=name, style={"width": f"{100 * n / budget:.2f}%"}) for n, name in parts if n]
    return html.Div([html.Div(filled, className="bar-of", **_hidden()), html.Span(said)], className="progress")


def _hidden() -> dict[str, Any]:
    return {"aria-hidden": "true"}


def _noise(sweep: Listed) -> list[Any]:
    if sweep.noise is None or not math.isfinite(sweep.noise):
        return [html.Span("–", className="soft")]
    found: list[Any] = [html.B(short(sweep.noise)), html.Span(f" {sweep.unit}", className="soft")]
    if sweep.low is not None and sweep.high is not None:
        found.append(html.Div(f"{short(sweep.low)} to {short(sweep.high)}", className="soft", title="90 % interval"))
    return found


def _best(sweep: Listed) -> list[Any]:
    if sweep.best is None or not math.isfinite(sweep.best):
        return [html.Span("–", className="soft")]
    goal = OBJECTIVES.get(sweep.objective)
    label = goal.label if goal is not None else sweep.objective
    return [html.B(short(sweep.best)), html.Div(words(label), className="soft", title=label)]


def _age(sweep: Listed, now: datetime) -> str:
    seconds = (now - sweep.created).total_seconds()
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{pluralize(int(seconds // size), noun)} ago"
    return "just now"
