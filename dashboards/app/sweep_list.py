"""Dash components of a service: the list of sweeps, and the head of a sweep's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dash import html
from dash.development.base_component import Component

from dashboards.charts.axes import shorten
from dashboards.data.selection import Selection
from dashboards.data.words import strip_label
from dashboards.views.section import Control
from sweeper.analysis.text import describe_winner
from sweeper.client.models import ACTIVE, ENDED, State, Sweep
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES

ALL = "all"
UNDER_WAY = (State.QUEUED, *ACTIVE)
GROUPS = {ALL: ("all", ()), "open": ("waiting or running", UNDER_WAY), "ended": ("ended", ENDED)}
SHOWN = 100
_HEAD = ("sweep", "state", "progress", "best noise", "best value", "owner", "sent")
_TOKEN = "Set SWEEPER_TOKEN to your token. "
_SEND = "sweeper --server {} run digits_cnn --trials 20"


def list_states(name: str) -> tuple[str, ...]:
    """Return the states of a choice; nothing for all states and for an unknown choice."""
    if name in GROUPS:
        return GROUPS[name][1]
    return (name,) if name in (*UNDER_WAY, *ENDED) else ()


def make_controls(owners: Sequence[str]) -> tuple[Control, ...]:
    """Return the controls of the list: the state, and the owner if several exist."""
    groups = tuple((name, label) for name, (label, _) in GROUPS.items())
    state = Control("state", "state", (*groups, *((s, s) for s in (*UNDER_WAY, *ENDED))))
    if len(owners) < 2:
        return (state,)
    return state, Control("owner", "owner", ((ALL, "all"), *((o, o) for o in owners)))


def make_table(sweeps: Sequence[Sweep], selection: Selection, now: datetime) -> list[Component]:
    """Return the list.

    Args:
        sweeps: Sweeps of this page, plus one if older ones exist.
        selection: The reader's choices.
        now: Time that ages refer to.
    """
    shown = sweeps[:SHOWN]
    links: list[Component] = []
    if selection.before:
        links.append(html.A("newest", href=replace(selection, before="").to_query() or "?", className="go save"))
    if len(sweeps) > SHOWN:
        older = replace(selection, before=shown[-1].id).to_query()
        links.append(html.A("older", href=older, className="go save"))
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in _HEAD]))
    rows = html.Tbody([_make_row(sweep, now) for sweep in shown])
    card = html.Article(html.Table([head, rows], className="sweeps", id="sweeps"), className="card wide")
    return [card, html.Div(links, className="older")]


def explain_empty(selection: Selection, address: str, user: str) -> list[Component]:
    """Return the content of an empty list: how to send the first sweep, or that none matches the filter."""
    if selection.state or selection.owner or selection.before:
        texts = [html.H3("No sweep matches this filter"), html.A("show all sweeps", href="?", className="go")]
        return [html.Article(texts, className="card wide empty")]
    return [
        html.Article(
            [
                html.H3("No sweeps yet"),
                html.P("Send the first one from any machine that reaches this address:"),
                html.Div(html.Code(_SEND.format(address)), className="command"),
                html.P(
                    f"{_TOKEN if user else ''}The sweep appears here at once, its trials as they finish.",
                    className="soft",
                ),
            ],
            className="card wide empty",
        )
    ]


def make_head(sweep: Sweep | None, title: str, called: str, now: datetime) -> list[Component]:
    """Return the head of a sweep's page: link to the list, title, progress.

    Args:
        sweep: The sweep; None for several sweeps read as one.
        title: The title.
        called: Name of the sweep in commands.
        now: Time that ages refer to.
    """
    back = html.A("← all sweeps", href="?", className="go back")
    if sweep is None:
        return [back, html.H1(title), html.Div(called, className="soft")]
    facts = [
        make_pill(sweep.state),
        _make_progress(sweep),
        html.Span(_describe_owner(sweep)),
        html.Span(_describe_age(sweep, now)),
    ]
    reason = [html.Div(sweep.reason, className="soft")] if sweep.reason and sweep.state != "done" else []
    return [
        back,
        html.H1(title),
        html.Div(facts, className="soft standing"),
        *reason,
        html.Div(called, className="soft place"),
    ]


def describe_wait(sweep: Sweep) -> str:
    """Return the notice on the page of a sweep that has no folder yet."""
    if sweep.state == "queued":
        place = f" at place {sweep.position}" if sweep.position else ""
        return f"This sweep waits in the queue{place}. Its trials appear here as they finish."
    if sweep.state in UNDER_WAY:
        return "This sweep is starting. Its trials appear here as they finish."
    return "This sweep ended before its first trial, so it has no figures."


def make_pill(state: str) -> Component:
    """Return a state as a coloured word."""
    return html.Span(state, className=f"pill {state}")


def _make_row(sweep: Sweep, now: datetime) -> Component:
    facts = [html.Div(f"place {sweep.position} in the queue", className="soft")] if sweep.position else []
    facts += [html.Div(sweep.reason, className="soft why", title=sweep.reason)] if _shows_reason(sweep) else []
    name = html.A(sweep.name, href=Selection(run=sweep.id).to_query(), className="go name")
    cells: list[list[Any]] = [
        [name, html.Div(sweep.space if sweep.name == sweep.id else f"{sweep.space} · {sweep.id}", className="soft")],
        [make_pill(sweep.state), *facts],
        [_make_progress(sweep)],
        _make_noise(sweep),
        _make_best(sweep),
        [_describe_owner(sweep)],
        [html.Span(_describe_age(sweep, now), title=f"{sweep.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC")],
    ]
    pairs = zip(_HEAD, cells, strict=True)
    # a narrow page stacks the cells, each with its heading
    return html.Tr([html.Td(cell, **_label_cell(label)) for label, cell in pairs], key=sweep.id)


def _label_cell(label: str) -> dict[str, Any]:
    return {"data-label": label}


def _shows_reason(sweep: Sweep) -> bool:
    return bool(sweep.reason) and sweep.state in ("failed", "cancelled", "interrupted")


def _describe_owner(sweep: Sweep) -> str:
    return f"{sweep.owner} · shared" if sweep.shared else sweep.owner


def _make_progress(sweep: Sweep) -> Component:
    progress = sweep.progress
    budget = max(progress.budget, progress.done + progress.failed, 1)
    done, total, failed = (n * progress.repeats for n in (progress.done, progress.budget, progress.failed))
    text = f"{done:,} of {total:,}" + (f", {failed:,} failed" if failed else "")
    parts = [(progress.done, "done"), (progress.failed, "failed")]
    filled = [html.I(className=name, style={"width": f"{100 * n / budget:.2f}%"}) for n, name in parts if n]
    return html.Div([html.Div(filled, className="bar-of", **_hide()), html.Span(text)], className="progress")


def _hide() -> dict[str, Any]:
    return {"aria-hidden": "true"}


def _make_noise(sweep: Sweep) -> list[Any]:
    regime = sweep.regime
    if regime is None or regime.optimum is None or not math.isfinite(regime.optimum):
        return [html.Span("–", className="soft")]
    parts: list[Any] = [html.B(shorten(regime.optimum)), html.Span(f" {regime.unit}", className="soft")]
    if regime.low is not None and regime.high is not None:
        interval = f"{shorten(regime.low)} to {shorten(regime.high)}"
        parts.append(html.Div(interval, className="soft", title="90 % interval"))
    return parts


def _make_best(sweep: Sweep) -> list[Any]:
    best = sweep.best
    if best is None or best.value is None or not math.isfinite(best.value):
        return [html.Span("–", className="soft")]
    goal = OBJECTIVES.get(best.objective)
    label = goal.label if goal is not None else best.objective
    value = html.B(shorten(best.value), title=f"winner {describe_winner(best)}")
    return [value, html.Div(strip_label(label), className="soft", title=label)]


def _describe_age(sweep: Sweep, now: datetime) -> str:
    seconds = (now - sweep.created).total_seconds()
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{pluralize(int(seconds // size), noun)} ago"
    return "just now"
