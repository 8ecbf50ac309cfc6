"""Answers of the live app: the parts of the page for an address that differ from what the browser shows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import flask
from dash import dcc, html, no_update
from dash.development.base_component import Component

from dashboards.app import components, grid, sweep_list
from dashboards.app.source import SweepSource
from dashboards.data.folders import Live
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.text.trial_details import describe_trial, find_row
from dashboards.views import VIEWS, choices, overview, verdicts
from dashboards.views import trials as trials_view
from dashboards.views.section import Control, Section
from dashboards.views.verdicts import Judges, use_judges
from sweeper.client.models import Sweep
from sweeper.errors import SpecError
from sweeper.formatting import csv_bytes

KEPT = 48
PARTS = ("title", "tabs", "controls", "notices", "hero", "verdicts", "banners", "tiles", "content", "notes")
INNER = {"graph": "figure", "caption": "children", "heading": "children", "table": "children", "panel": "children"}


Maker = tuple[Any, Callable[[], Any]]
"""Inputs of a part, and the function that makes it."""
PageChanges = tuple[dict[str, Any], dict[tuple[str, str], Any], dict[str, str]]
Runs = tuple[tuple[str, str], ...]
"""Name and label per run on offer."""


class App:
    """Answers of the callbacks. The address holds all state of a reader.

    Args:
        live: The runs.
        source: The service that owns the sweeps and knows who may see them; None if everyone may see the runs.
    """

    def __init__(self, live: Live, source: SweepSource | None = None) -> None:
        self.live, self.source = live, source
        self._sections: dict[Hashable, Section] = {}
        use_judges(Judges(self._prepare))

    def _prepare(self) -> None:
        if self.source is not None:  # no user here, so no sweep is visible
            return
        with contextlib.suppress(SpecError):
            overview.prepare(self.live.run(self.run_names(Selection())), Selection())

    def run_names(self, selection: Selection) -> list[str]:
        """Return the selected runs that exist, else the first run; a service shows its list instead."""
        known = [n for n in selection.run.split(",") if n and n in self.live.folders]
        return known if known or self.source is not None else list(self.live.folders)[:1]

    def read_run(self, search: str | None) -> Run | None:
        """Return the run of an address; None without one.

        Raises:
            SpecError: The run cannot be read.
        """
        selection, _ = self.parse_query(search)
        names = self.run_names(selection)
        return self.live.run(names) if names else None

    def version(self, search: str | None) -> str:
        """Return a text that changes whenever the page at this address changes."""
        selection, _ = self.parse_query(search)
        names = self.run_names(selection)
        if not names:
            return _hash(self._list_sweeps(selection))
        entry = _hash(self._find_entry(names))
        try:
            run = self.live.run(names)
        except SpecError as error:
            return f"error: {error} {entry}"
        return f"{run.version}.{_hash(verdicts.count_judgements(run.place))}.{entry}"

    def _read_served_run(self, names: Sequence[str]) -> Run:
        run = self.live.run(names)
        return run if self.source is None else replace(run, server=_read_server_url())

    def _redact(self, text: str) -> str:
        return text if self.source is None else self.source.redact(text)

    def _find_entry(self, names: Sequence[str]) -> Sweep | None:
        return self.source.find(names[0]) if self.source is not None and len(names) == 1 else None

    def _is_missing(self, name: str) -> bool:
        folder = self.live.folders.get(name)
        with contextlib.suppress(SpecError):
            return folder is not None and not folder.place.exists()
        return False

    def _list_sweeps(self, selection: Selection) -> Sequence[Sweep]:
        assert self.source is not None  # without a service, a run exists
        owner = "" if selection.owner == sweep_list.ALL else selection.owner
        states = sweep_list.list_states(selection.state or sweep_list.ALL)
        return self.source.list_sweeps(states, owner, selection.before, sweep_list.SHOWN + 1)

    def parse_query(self, search: str | None) -> tuple[Selection, tuple[str, ...]]:
        """Return the selection of an address, and a sentence per unknown value."""
        selection, first = Selection.from_query(search or ""), next(iter(VIEWS))
        notices: list[str] = []
        if selection.tab not in VIEWS:
            notices.append(f"There is no tab {selection.tab!r}: this page shows {first}.")
            selection = replace(selection, tab=first)
        names = list(filter(None, selection.run.split(",")))
        known = [n for n in names if n in self.live.folders]
        if unknown := [n for n in names if n not in known]:
            selection = replace(selection, run=",".join(known))
            shown = ", ".join(self.run_names(selection)) or "the sweeps that you may see"
            notices.append(f"There is no sweep {unknown[0]!r}: this page shows {shown}.")
        return selection, tuple(notices)

    def check_selection(self, run: Run, selection: Selection) -> tuple[Selection, tuple[Control, ...], tuple[str, ...]]:
        """Return the selection with unknown values at their defaults, the view's controls, and a sentence on each."""
        controls = VIEWS[selection.tab].controls(run, selection)
        selection, notices = choices.check_choices(selection, controls)
        return selection, controls, notices

    def draw(self, search: str | None, theme: str, shown: Mapping[str, str], version: str) -> PageChanges:
        """Return the changes of the page.

        Args:
            search: The address's query.
            theme: `light` or `dark`.
            shown: Part -> hash of its inputs, as the browser shows it.
            version: See `version`.

        Returns:
            Children of the changed parts of `PARTS`, content of figures and tables that stay in place, and the new
            value of `shown`.
        """
        requested, notices = self.parse_query(search)
        names = self.run_names(requested)
        if not names:
            return self._draw_list(requested, notices, shown)
        entry = self._find_entry(names)
        try:
            run = self._read_served_run(names)
            selection, controls, more = self.check_selection(run, requested)
        except SpecError as error:
            if entry is not None and self._is_missing(names[0]):
                return self._draw_waiting(entry, notices, shown)
            notice = html.Div(f"{error}. This page may be out of date; the app tries again.", className="banner")
            return {"notices": [notice]}, {}, {**shown, "notices": ""}
        lines = (*notices, *more, *run.pooled, *run.skipped)
        runs = self._list_runs(names)
        makers: dict[str, Maker] = {
            "title": (self._title_inputs(run, entry), lambda: self._draw_title(run, entry)),
            "tabs": (selection, lambda: _make_tabs(selection)),
            "controls": (
                (run.place, selection, controls, runs),
                lambda: self._draw_controls(run, selection, controls, runs),
            ),
            "notices": (lines, lambda: components.make_banners(lines)),
        }
        parts, marks = _make_changed(makers, shown)
        marks["values"] = json.dumps(self._find_values(run, selection, controls, runs))
        marks["busy"] = "1" if verdicts.is_busy(run.place) else ""
        marks["content"] = self._hash_content(run, selection, theme, version)
        marks["skeleton"] = shown.get("skeleton", "")
        if shown.get("content") == marks["content"]:
            return parts, {}, marks
        more_parts, inner, marks["skeleton"] = self._draw_content(run, selection, theme, shown.get("skeleton", ""))
        marks["busy"] = "1" if verdicts.is_busy(run.place) else ""  # the views have requested their judgements by now
        return parts | more_parts, inner, marks

    def _draw_list(self, requested: Selection, notices: Sequence[str], shown: Mapping[str, str]) -> PageChanges:
        """Return the changes of the list of sweeps, as `draw` does."""
        source = self.source
        assert source is not None
        controls = sweep_list.make_controls(source.owners())
        requested, more = choices.check_choices(requested, controls)
        lines, sweeps, now = (*notices, *more), self._list_sweeps(requested), datetime.now(UTC)
        values = {c.field: getattr(requested, c.field) or sweep_list.ALL for c in controls}

        def make_content() -> list[Component]:
            if sweeps:
                return sweep_list.make_table(sweeps, requested, now)
            return sweep_list.explain_empty(requested, _read_server_url(), source.user())

        makers: dict[str, Maker] = {
            "title": ("sweeps", lambda: [html.H1("Sweeps")]),
            "tabs": ("", list),
            "controls": (
                (values, controls),
                lambda: [components.make_control(c, values[c.field], sweep_list.ALL) for c in controls],
            ),
            "notices": (lines, lambda: components.make_banners(lines)),
            "content": ((requested, sweeps, now.replace(second=0, microsecond=0)), make_content),
        }  # fmt: skip
        parts, marks = _make_changed(makers, shown)
        marks |= {"values": json.dumps(values), "skeleton": "list"}
        return _clear_sections(parts, shown, "list"), {}, marks

    def _draw_waiting(self, sweep: Sweep, notices: Sequence[str], shown: Mapping[str, str]) -> PageChanges:
        """Return the changes of the page of a sweep without a folder, as `draw` does."""
        lines = (*notices, sweep_list.describe_wait(sweep))
        makers: dict[str, Maker] = {
            "title": (sweep, lambda: self._draw_heading(sweep, f"{sweep.space} · {sweep.name}", "")),
            "tabs": ("", list),
            "controls": ("", list),
            "notices": (lines, lambda: components.make_banners(lines)),
            "content": ("", list),
        }
        parts, marks = _make_changed(makers, shown)
        return _clear_sections(parts, shown, "none"), {}, {**marks, "skeleton": "none"}

    def _hash_content(self, run: Run, selection: Selection, theme: str, version: str) -> str:
        kept = _drop_undrawn(selection)
        if selection.tab == "trials" and run.tables["trials"].num_rows:
            # the grid requests its rows
            return _hash(kept, run.place, trials_view.list_columns(run, selection))
        return _hash(kept, theme, run.key, version)

    def _draw_content(
        self, run: Run, selection: Selection, theme: str, skeleton: str
    ) -> tuple[dict[str, Any], dict[tuple[str, str], Any], str]:
        view = VIEWS[selection.tab]
        if view.name == "trials" and run.tables["trials"].num_rows:
            listed = grid.make_grid(trials_view.list_columns(run, selection), selection)
            texts = components.make_texts(Section(banners=trials_view.find_troubles(run, selection)))
            return {**texts, "hero": [], "content": listed}, {}, "grid"
        revision = f"{_hash(run.place)} {selection.noise} {selection.metric} {selection.split}"
        section = self.build_section(run, selection)
        words, mark = components.make_texts(section), _hash(components.describe_layout(section, view.name))
        if mark == skeleton:
            return words, components.refresh_parts(section, view.name, theme, revision), mark
        hero = components.make_hero(section, view.name, theme, revision, selection.batch_size)
        return {**words, "hero": hero, "content": components.make_cards(section, view.name, theme, revision)}, {}, mark

    def _title_inputs(self, run: Run, entry: Sweep | None) -> object:
        # the title shows the age in minutes
        return run.key, entry, datetime.now(UTC).replace(second=0, microsecond=0) if self.source else None

    def _draw_title(self, run: Run, entry: Sweep | None) -> list[Component]:
        space = choices.read_sweep(run).space
        if self.source is not None:
            return self._draw_heading(entry, f"{space} · {entry.name if entry else run.name}", run.name)
        state = "running" if run.running else "not running"
        return [html.H1(f"{space} · {run.name}"), html.Div(f"{run.place} · {state}", className="soft")]

    def _draw_heading(self, entry: Sweep | None, title: str, called: str) -> list[Component]:
        return sweep_list.make_head(entry, title, called, datetime.now(UTC))

    def _list_runs(self, names: Sequence[str]) -> Runs:
        """Return the runs on offer with their labels; nothing if only one exists."""
        if self.source is None:
            labels = {name: name for name in self.live.folders}
        else:
            labels = dict(self.source.names())
            labels |= {name: name for name in names if name not in labels}
        return tuple(labels.items()) if len(labels) > 1 else ()

    def _draw_controls(
        self, run: Run, selection: Selection, controls: tuple[Control, ...], runs: Runs
    ) -> list[Component]:
        drawn: list[Component] = []
        values = self._find_values(run, selection, controls, runs)
        if runs:
            key = {"type": "control", "field": "run", "default": "" if self.source is not None else runs[0][0]}
            options = [{"value": name, "label": label} for name, label in runs]
            dropdown = dcc.Dropdown(id=key, options=options, value=values["run"], multi=True, clearable=False)
            drawn.append(html.Label([html.Span("sweeps"), dropdown], className="control wide"))
        defaults = self._find_values(run, replace(Selection(), tab=selection.tab, run=selection.run), controls, runs)
        drawn += [components.make_control(c, values[c.field], defaults[c.field]) for c in controls if not c.in_card]
        return drawn

    def _find_values(self, run: Run, selection: Selection, controls: tuple[Control, ...], runs: Runs) -> dict[str, Any]:
        """Return field -> value that its control shows."""
        effective = _resolve_choices(run, selection)
        plain = _resolve_choices(run, replace(Selection(), tab=selection.tab, run=selection.run))
        values: dict[str, Any] = {"run": self.run_names(selection)} if runs else {}
        for control in controls:
            first = control.options[0][0] if control.options else ""
            value = getattr(selection, control.field) or plain.get(control.field) or first
            if control.field in ("noise", "metric", "split"):
                value = effective.get(control.field) or value
            values[control.field] = value
        return values

    def build_section(self, run: Run, selection: Selection) -> Section:
        """Return a tab's content, from the cache if possible."""
        key = run.key, run.server, verdicts.count_judgements(run.place), _drop_undrawn(selection)
        if (section := self._sections.get(key)) is None:
            try:
                section = VIEWS[selection.tab].build(run, selection)
            except Exception as error:  # a failing tab must not break the others
                traceback.print_exc()
                message = self._redact(f"{type(error).__name__}: {error}")
                return Section(banners=(f"This tab cannot be shown: {message}",))
            self._sections[key] = section
            while len(self._sections) > KEPT:
                self._sections.pop(next(iter(self._sections)), None)
        return section

    def warm_up(self) -> None:
        """Compute the first page and its verdict before a visitor comes."""
        if self.source is not None:
            return
        with contextlib.suppress(SpecError):
            self.build_section(self.live.run(self.run_names(Selection())), Selection())
        self._prepare()

    def answer_grid(self, request: Mapping[str, Any] | None, search: str | None) -> tuple[Any, Any]:
        """Return the rows that the grid requests, and the text beside it."""
        if request is None:
            return no_update, no_update
        selection, _ = self.parse_query(search)
        run = self.read_run(search)
        if run is None:
            return no_update, no_update
        heads = trials_view.list_columns(run, selection)
        return grid.answer_request(trials_view.list_rows(run, selection), heads, request)

    def show_trial(self, search: str | None, theme: str | None) -> list[Component]:
        """Return the details of the open trial; nothing without one."""
        selection, _ = self.parse_query(search)
        if selection.tab != "trials" or not selection.trial:
            return []
        names = self.run_names(selection)
        if not names:
            return []
        row = find_row(self.live.run(names).tables["trials"], selection.trial)
        if row is None:
            return [html.Div(f"There is no trial {selection.trial!r}.", className="banner")]
        shown = self._read_served_run([row.get("run") or names[0]])
        tables = [self.live.rows_of(names, table, selection.trial) for table in ("history", "merges")]
        return components.make_details(
            describe_trial(row, shown, *tables), theme or "light", replace(selection, trial="")
        )

    def export_csv(self, search: str) -> bytes | None:
        """Return the filtered and sorted trials of an address with all columns, as CSV; None without a run.

        Raises:
            SpecError: The run cannot be read.
            InvalidFilterError: The filter or the order is invalid.
        """
        selection, _ = self.parse_query(search)
        run = self.read_run(search)
        return None if run is None else csv_bytes(trials_view.select_rows(run, selection))


def _read_server_url() -> str:
    return flask.request.host_url.rstrip("/")


def _drop_undrawn(selection: Selection) -> Selection:
    # the open trial of the list, its filter and its order change no figure
    trial = selection.trial if selection.tab != "trials" else ""
    return replace(selection, trial=trial, filter="", sort="", state="", owner="", before="")


def _make_changed(makers: Mapping[str, Maker], shown: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parts that differ from those shown, and the hashes of all."""
    marks = {name: _hash(of) for name, (of, _) in makers.items()}
    return {name: make() for name, (_, make) in makers.items() if shown.get(name) != marks[name]}, marks


def _clear_sections(parts: dict[str, Any], shown: Mapping[str, str], skeleton: str) -> dict[str, Any]:
    # a page without views has no texts around its content
    return parts if shown.get("skeleton") == skeleton else {**components.make_texts(Section()), "hero": [], **parts}


def _hash(*of: object) -> str:
    return hashlib.sha256(repr(of).encode()).hexdigest()[:16]


def _resolve_choices(run: Run, selection: Selection) -> dict[str, str]:
    chosen = choices.choose(run, selection)
    return {"noise": chosen.noise, "metric": chosen.name, "split": chosen.split}


def _make_tabs(selection: Selection) -> list[Component]:
    return [
        html.A(
            view.title,
            href=replace(selection, tab=name, trial="").to_query() or "?",
            title=view.doc,
            className="go current" if name == selection.tab else "go",
        )
        for name, view in VIEWS.items()
    ]
