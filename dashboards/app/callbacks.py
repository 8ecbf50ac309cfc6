"""What the live app answers: the parts of a page that an address asks for, and what of them has changed."""

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
from dashboards.app.source import Listed, Offer
from dashboards.data.folders import Live
from dashboards.data.runs import Run
from dashboards.data.selection import Selection
from dashboards.data.trial_rows import listed
from dashboards.text.trial_details import details, row_of
from dashboards.views import VIEWS, choices, overview, verdicts
from dashboards.views import trials as trials_view
from dashboards.views.section import Control, Section
from dashboards.views.verdicts import Judges, in_background
from sweeper.errors import SpecError
from sweeper.formatting import csv_bytes

KEPT = 48
PARTS = ("title", "tabs", "controls", "notices", "verdicts", "banners", "tiles", "content", "notes")
INNER = {"graph": "figure", "caption": "children", "heading": "children", "table": "children"}


Made = tuple[Any, Callable[[], Any]]
"""What a part depends on, and what makes it."""
Drawn = tuple[dict[str, Any], dict[tuple[str, str], Any], dict[str, str]]
Runs = tuple[tuple[str, str], ...]
"""Name and words of each run that can be chosen."""


class App:
    """What the callbacks answer; it holds no state of a reader, which is all in the address.

    Args:
        live: The runs.
        offer: The service whose sweeps they are; it is asked who may see what. None for runs that all may see.
    """

    def __init__(self, live: Live, offer: Offer | None = None) -> None:
        self.live, self.offer = live, offer
        self._sections: dict[Hashable, Section] = {}
        in_background(Judges(self._prepare))

    def _prepare(self) -> None:
        if self.offer is not None:  # nobody asks here, so that there is nothing to see
            return
        with contextlib.suppress(SpecError):
            overview.prepare(self.live.run(self.names(Selection())), Selection())

    def names(self, selection: Selection) -> list[str]:
        """Return the runs that are selected: the known ones, or the first; of a service's none, which is its list."""
        known = [n for n in selection.run.split(",") if n and n in self.live.folders]
        return known if known or self.offer is not None else list(self.live.folders)[:1]

    def shown(self, search: str | None) -> Run | None:
        """Return the run that an address shows; None where it shows none.

        Raises:
            SpecError: It cannot be read.
        """
        selection, _ = self.selection(search)
        names = self.names(selection)
        return self.live.run(names) if names else None

    def version(self, search: str | None) -> str:
        """Return what changes whenever anything does that a reader with this address sees."""
        asked, _ = self.selection(search)
        names = self.names(asked)
        if not names:
            return _mark(self._listed(asked))
        standing = _mark(self._standing(names))
        try:
            run = self.live.run(names)
        except SpecError as error:
            return f"error: {error} {standing}"
        return f"{run.version}.{_mark(verdicts.mark(run.place))}.{standing}"

    def _run(self, names: Sequence[str]) -> Run:
        run = self.live.run(names)
        return run if self.offer is None else replace(run, server=_address())

    def _outward(self, text: str) -> str:
        return text if self.offer is None else self.offer.outward(text)

    def _standing(self, names: Sequence[str]) -> Listed | None:
        return self.offer.find(names[0]) if self.offer is not None and len(names) == 1 else None

    def _absent(self, name: str) -> bool:
        folder = self.live.folders.get(name)
        with contextlib.suppress(SpecError):
            return folder is not None and not folder.place.exists()
        return False

    def _listed(self, asked: Selection) -> Sequence[Listed]:
        assert self.offer is not None  # without a service there is always a run
        owner = "" if asked.owner == sweep_list.ALL else asked.owner
        return self.offer.listed(
            sweep_list.states(asked.state or sweep_list.ALL), owner, asked.before, sweep_list.SHOWN + 1
        )

    def selection(self, search: str | None) -> tuple[Selection, tuple[str, ...]]:
        """Return what an address asks for, and a sentence on each value that is not known here."""
        asked = Selection.from_query(search or "")
        said: list[str] = []
        if asked.tab not in VIEWS:
            said.append(f"There is no tab {asked.tab!r}: this is {next(iter(VIEWS))}.")
            asked = replace(asked, tab=next(iter(VIEWS)))
        wanted = list(filter(None, asked.run.split(",")))
        known = [n for n in wanted if n in self.live.folders]
        if unknown := [n for n in wanted if n not in known]:
            asked = replace(asked, run=",".join(known))
            shown = ", ".join(self.names(asked)) or "the list of those that you may see"
            said.append(f"There is no sweep {unknown[0]!r} here: shown is {shown}.")
        return asked, tuple(said)

    def checked(self, run: Run, asked: Selection) -> tuple[Selection, tuple[Control, ...], tuple[str, ...]]:
        """Return the selection with unknown values at their defaults, the view's controls, and what was left out."""
        controls = VIEWS[asked.tab].controls(run, asked)
        asked, said = choices.known(asked, controls)
        return asked, controls, said

    def draw(self, search: str | None, theme: str, shown: Mapping[str, str], version: str) -> Drawn:
        """Return what must be drawn anew.

        Args:
            search: The address's query.
            theme: `light` or `dark`.
            shown: What the page shows: part -> mark of what it depends on.
            version: See `version`.

        Returns:
            Children of the parts of `PARTS` that change, content of figures and tables that stay in their place, and
            what is shown then.
        """
        asked, said = self.selection(search)
        names = self.names(asked)
        if not names:
            return self._list(asked, said, shown)
        standing = self._standing(names)
        try:
            run = self._run(names)
            selection, controls, more = self.checked(run, asked)
        except SpecError as error:
            if standing is not None and self._absent(names[0]):
                return self._awaited(standing, said, shown)
            notice = html.Div(f"{error}. What is shown may be old; the app tries again.", className="banner")
            return {"notices": [notice]}, {}, {**shown, "notices": ""}
        lines = (*said, *more, *run.pooled, *run.skipped)
        runs = self._runs(names)
        made: dict[str, Made] = {
            "title": (self._head(run, standing), lambda: self._title(run, standing)),
            "tabs": (selection, lambda: _tabs(selection)),
            "controls": (
                (run.place, selection, controls, runs),
                lambda: self._controls(run, selection, controls, runs),
            ),
            "notices": (lines, lambda: components.banners(lines)),
        }
        parts, marks = _changed(made, shown)
        marks["values"] = json.dumps(self._values(run, selection, controls, runs))
        marks["busy"] = "1" if verdicts.busy(run.place) else ""
        marks["content"] = self._depends(run, selection, theme, version)
        marks["skeleton"] = shown.get("skeleton", "")
        if shown.get("content") == marks["content"]:
            return parts, {}, marks
        more_parts, inner, marks["skeleton"] = self._content(run, selection, theme, shown.get("skeleton", ""))
        marks["busy"] = "1" if verdicts.busy(run.place) else ""  # the views ask for what they need to know
        return parts | more_parts, inner, marks

    def _list(self, asked: Selection, said: Sequence[str], shown: Mapping[str, str]) -> Drawn:
        """Return what must be drawn anew of a service's list; as `draw`."""
        offer = self.offer
        assert offer is not None
        controls = sweep_list.controls(offer.owners())
        asked, more = choices.known(asked, controls)
        lines, sweeps, now = (*said, *more), self._listed(asked), datetime.now(UTC)
        values = {c.field: getattr(asked, c.field) or sweep_list.ALL for c in controls}

        def content_() -> list[Component]:
            if sweeps:
                return sweep_list.table(sweeps, asked, now)
            return sweep_list.empty(asked, _address(), offer.asker())

        made: dict[str, Made] = {
            "title": ("sweeps", lambda: [html.H1("Sweeps")]),
            "tabs": ("", list),
            "controls": (
                (values, controls), lambda: [components.control(c, values[c.field], sweep_list.ALL) for c in controls]
            ),
            "notices": (lines, lambda: components.banners(lines)),
            "content": ((asked, sweeps, now.replace(second=0, microsecond=0)), content_),
        }  # fmt: skip
        parts, marks = _changed(made, shown)
        marks |= {"values": json.dumps(values), "skeleton": "list"}
        return _plain(parts, shown, "list"), {}, marks

    def _awaited(self, sweep: Listed, said: Sequence[str], shown: Mapping[str, str]) -> Drawn:
        """Return what must be drawn anew of a sweep that has no folder yet; as `draw`."""
        lines = (*said, sweep_list.waiting(sweep))
        made: dict[str, Made] = {
            "title": (sweep, lambda: self._entitled(sweep, f"{sweep.space} · {sweep.name}", "")),
            "tabs": ("", list),
            "controls": ("", list),
            "notices": (lines, lambda: components.banners(lines)),
            "content": ("", list),
        }
        parts, marks = _changed(made, shown)
        return _plain(parts, shown, "none"), {}, {**marks, "skeleton": "none"}

    def _depends(self, run: Run, selection: Selection, theme: str, version: str) -> str:
        kept = _drawn_by(selection)
        if selection.tab == "trials" and run.tables["trials"].num_rows:
            # the grid asks for its rows itself
            return _mark(kept, run.place, trials_view.columns(run, selection))
        return _mark(kept, theme, run.key, version)

    def _content(
        self, run: Run, selection: Selection, theme: str, skeleton: str
    ) -> tuple[dict[str, Any], dict[tuple[str, str], Any], str]:
        view = VIEWS[selection.tab]
        if view.name == "trials" and run.tables["trials"].num_rows:
            listed = grid.trials_grid(trials_view.columns(run, selection), selection)
            return {**components.words(Section()), "content": listed}, {}, "grid"
        revision = f"{_mark(run.place)} {selection.noise} {selection.metric} {selection.split}"
        section = self.section(run, selection)
        words, mark = components.words(section), _mark(components.skeleton(section, view.name))
        if mark == skeleton:
            return words, components.refreshed(section, view.name, theme, revision), mark
        return {**words, "content": components.cards(section, view.name, theme, revision)}, {}, mark

    def _head(self, run: Run, standing: Listed | None) -> object:
        # its age counts in minutes
        return run.key, standing, datetime.now(UTC).replace(second=0, microsecond=0) if self.offer else None

    def _title(self, run: Run, standing: Listed | None) -> list[Component]:
        space = choices.sweep(run).space
        if self.offer is not None:
            return self._entitled(standing, f"{space} · {standing.name if standing else run.name}", run.name)
        state = "running" if run.running else "not running"
        return [html.H1(f"{space} · {run.name}"), html.Div(f"{run.place} · {state}", className="soft")]

    def _entitled(self, standing: Listed | None, title: str, called: str) -> list[Component]:
        return sweep_list.head(standing, title, called, datetime.now(UTC))

    def _runs(self, names: Sequence[str]) -> Runs:
        """Return the runs that can be chosen, with words for people; none where there is nothing to choose."""
        if self.offer is None:
            found = {name: name for name in self.live.folders}
        else:
            found = dict(self.offer.names())
            found |= {name: name for name in names if name not in found}
        return tuple(found.items()) if len(found) > 1 else ()

    def _controls(self, run: Run, selection: Selection, controls: tuple[Control, ...], runs: Runs) -> list[Component]:
        made: list[Component] = []
        values = self._values(run, selection, controls, runs)
        if runs:
            key = {"type": "control", "field": "run", "default": "" if self.offer is not None else runs[0][0]}
            options = [{"value": name, "label": words} for name, words in runs]
            picked = dcc.Dropdown(id=key, options=options, value=values["run"], multi=True, clearable=False)
            made.append(html.Label([html.Span("sweeps"), picked], className="control wide"))
        defaults = self._values(run, replace(Selection(), tab=selection.tab, run=selection.run), controls, runs)
        made += [components.control(c, values[c.field], defaults[c.field]) for c in controls]
        return made

    def _values(self, run: Run, selection: Selection, controls: tuple[Control, ...], runs: Runs) -> dict[str, Any]:
        """Return what each control shows, by field."""
        effective = _effective(run, selection)
        plain = _effective(run, replace(Selection(), tab=selection.tab, run=selection.run))
        values: dict[str, Any] = {"run": self.names(selection)} if runs else {}
        for control in controls:
            first = control.options[0][0] if control.options else ""
            value = getattr(selection, control.field) or plain.get(control.field) or first
            if control.field in ("noise", "metric", "split"):
                value = effective.get(control.field) or value
            values[control.field] = value
        return values

    def section(self, run: Run, selection: Selection) -> Section:
        """Return a tab's content; the last ones are kept."""
        key = run.key, run.server, verdicts.mark(run.place), _drawn_by(selection)
        if (found := self._sections.get(key)) is None:
            try:
                found = VIEWS[selection.tab].build(run, selection)
            except Exception as error:  # one tab that fails must not take the others with it
                traceback.print_exc()
                said = self._outward(f"{type(error).__name__}: {error}")
                return Section(banners=(f"This tab cannot be shown: {said}",))
            self._sections[key] = found
            while len(self._sections) > KEPT:
                self._sections.pop(next(iter(self._sections)), None)
        return found

    def warm(self) -> None:
        """Compute what the first visitor sees, and have it judged."""
        if self.offer is not None:
            return
        with contextlib.suppress(SpecError):
            self.section(self.live.run(self.names(Selection())), Selection())
        self._prepare()

    def rows(self, request: Mapping[str, Any] | None, search: str | None) -> tuple[Any, Any]:
        """Return the rows that the grid asks for and the words beside it."""
        if request is None:
            return no_update, no_update
        selection, _ = self.selection(search)
        run = self.shown(search)
        if run is None:
            return no_update, no_update
        return grid.rows(run.tables["trials"], trials_view.columns(run, selection), request)

    def details(self, search: str | None, theme: str | None) -> list[Component]:
        """Return the details of the trial that is open, nothing where none is."""
        selection, _ = self.selection(search)
        if selection.tab != "trials" or not selection.trial:
            return []
        names = self.names(selection)
        if not names:
            return []
        row = row_of(self.live.run(names).tables["trials"], selection.trial)
        if row is None:
            return [html.Div(f"There is no trial {selection.trial!r} here.", className="banner")]
        shown = self._run([row.get("run") or names[0]])
        tables = [self.live.rows_of(names, table, selection.trial) for table in ("history", "merges")]
        return components.details(details(row, shown, *tables), theme or "light", replace(selection, trial=""))

    def csv(self, search: str) -> bytes | None:
        """Return the trials that the selection's filter leaves, in its order, with all columns, as CSV.

        Returns:
            The bytes; None where the address shows no run.

        Raises:
            SpecError: It cannot be read.
        """
        selection, _ = self.selection(search)
        run = self.shown(search)
        if run is None:
            return None
        found, _ = listed(run.tables["trials"], selection.filter, selection.sort)
        return csv_bytes(found)


def _address() -> str:
    return flask.request.host_url.rstrip("/")


def _drawn_by(selection: Selection) -> Selection:
    # a trial that is open in the list, the list's filter and its order change no figure
    kept = selection.trial if selection.tab != "trials" else ""
    return replace(selection, trial=kept, filter="", sort="", state="", owner="", before="")


def _changed(made: Mapping[str, Made], shown: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parts that differ from what is shown, and the marks of all."""
    marks = {name: _mark(of) for name, (of, _) in made.items()}
    return {name: make() for name, (_, make) in made.items() if shown.get(name) != marks[name]}, marks


def _plain(parts: dict[str, Any], shown: Mapping[str, str], skeleton: str) -> dict[str, Any]:
    # a page without views has nothing around its content
    return parts if shown.get("skeleton") == skeleton else {**components.words(Section()), **parts}


def _mark(*of: object) -> str:
    return hashlib.sha256(repr(of).encode()).hexdigest()[:16]


def _effective(run: Run, selection: Selection) -> dict[str, str]:
    chosen = choices.choose(run, selection)
    return {"noise": chosen.noise, "metric": chosen.name, "split": chosen.split}


def _tabs(selection: Selection) -> list[Component]:
    return [
        html.A(
            view.title,
            href=replace(selection, tab=name, trial="").to_query() or "?",
            title=view.doc,
            className="go current" if name == selection.tab else "go",
        )
        for name, view in VIEWS.items()
    ]
