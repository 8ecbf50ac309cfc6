"""Views of the sweeps: the folder of a running sweep is read every second, that of another one on request."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import pyarrow as pa
from sqlalchemy.exc import SQLAlchemyError

from sweeper.client.models import (
    Advice,
    Extension,
    Progress,
    SettingsAdvice,
    State,
    Sweep,
    SweepDetail,
    SweepRecord,
    Transition,
    moment,
)
from sweeper.config.spec import SweepSpec
from sweeper.errors import AwayError, SpecError
from sweeper.service.db.landing import Landing
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError
from sweeper.service.views.events import Hub
from sweeper.service.views.memo import Memo
from sweeper.service.views.outward import Outward
from sweeper.service.views.reader import Reader
from sweeper.storage.location import place_of

_log = logging.getLogger("sweeper.service")
KEPT = 64
_SERVER = "\ue000"
"""Placeholder for the service's URL in a stored page: a character that no text contains."""
STALE_SECONDS = 2.0
AWAY_SECONDS = 5.0
"""Pause after a folder could not be reached."""
WAIT_SECONDS = 5.0
"""Longest time that a request waits for another one's read; it holds a thread that other requests need."""

T = TypeVar("T")


@dataclass
class _CachedReader:
    """A reader, and the outcome of its last read."""

    reader: Reader
    of: tuple[Any, int]
    """Spec and budget of the reader."""
    number: int
    reading: threading.Lock = field(default_factory=threading.Lock)
    read_at: float = -math.inf
    """Start of the last successful read."""
    away: tuple[float, str] | None = None
    """Time and reason of a later failure."""


class Views:
    """Reads the sweeps of a service; thread-safe.

    Args:
        catalog: The sweeps.
        hub: Receives the events.
        run_of: Sweep -> path or URI of its run folder.
        positions: Returns waiting sweep -> its position in the queue.
        outward: Removes the server's paths from messages and tables.
    """

    def __init__(
        self,
        catalog: Catalog,
        hub: Hub,
        run_of: Callable[[str], str],
        positions: Callable[[], Mapping[str, int]] = lambda: {},
        outward: Outward | None = None,
    ) -> None:
        self.catalog, self.hub, self.run_of, self.positions = catalog, hub, run_of, positions
        self.outward = outward or Outward()
        self._readers: OrderedDict[str, _CachedReader] = OrderedDict()
        self._numbers = count()
        self._lock = threading.Lock()
        self._memo = Memo()

    def spec(self, entry: Entry) -> SweepSpec:
        """Return a sweep's spec with its run folder."""
        return SweepSpec.checked({**entry.spec, "out": self.run_of(entry.id)})

    # -- reading ------------------------------------------------------------------------------------------------------

    def reader(self, entry: Entry, seconds: float = STALE_SECONDS) -> Reader:
        """Return the reader of a sweep, whose last read is at most `seconds` old.

        Raises:
            AwayError: The folder cannot be reached, or could not a moment ago.
        """
        return self._refreshed(entry, seconds).reader

    def _cached(self, entry: Entry) -> _CachedReader:
        of = entry.spec, entry.budget
        with self._lock:
            cached = self._readers.get(entry.id)
        if cached is None or cached.of != of:  # new, or resumed with another spec
            spec, catalog = self.spec(entry), self.catalog
            landing = Landing(catalog.engine, entry.id, spec.resources, catalog.clock)
            reader = Reader(entry.id, spec, entry.budget, landing, self.hub)
            new = _CachedReader(reader, of, next(self._numbers))
            with self._lock:
                cached = self._readers.get(entry.id)
                if cached is None or cached.of != of:
                    cached = new
        with self._lock:
            self._readers[entry.id] = cached
            self._readers.move_to_end(entry.id)
            while len(self._readers) > KEPT:
                self._readers.popitem(last=False)
        return cached

    def _refreshed(self, entry: Entry, seconds: float, wait: float = -1) -> _CachedReader:
        cached = self._cached(entry)
        since = time.monotonic() - seconds
        if cached.read_at < since or cached.away:
            if cached.reading.acquire(timeout=wait):
                try:
                    self._refresh(cached, since)
                finally:
                    cached.reading.release()
            elif wait:
                raise AwayError(f"{cached.reader.place.text} does not answer within {wait:g} s")
        return cached

    def _refresh(self, cached: _CachedReader, since: float) -> None:
        """Read a folder unless another request has since; if that one failed, fail likewise."""
        now = time.monotonic()
        if cached.away is not None and now - cached.away[0] < AWAY_SECONDS:
            raise AwayError(cached.away[1])
        if cached.read_at >= since:
            return
        try:
            cached.reader.refresh()
        except AwayError as error:
            cached.away = time.monotonic(), str(error)
            raise
        cached.read_at, cached.away = now, None

    def _memoize(self, entry: Entry, of: tuple[Hashable, ...], compute: Callable[[Reader], T]) -> T:
        """Return an expensive answer, computed once until the sweep's folder, spec or state changes."""
        cached = self._refreshed(entry, STALE_SECONDS, WAIT_SECONDS)
        spec = json.dumps(entry.spec, sort_keys=True, default=str)
        key = (entry.id, cached.number, cached.reader.changes, entry.state, spec, *of)
        return self._memo.get(key, lambda: compute(cached.reader))

    def follow(self, entries: Iterable[Entry]) -> None:
        """Read the folders of running sweeps; an unreadable one keeps its last snapshot."""
        for entry in entries:
            try:
                reader = self.reader(entry, 0.0)
                reader.analyse()
            except SpecError:
                continue
            except SQLAlchemyError as error:
                _log.warning("sweep %s: cannot store the numbers of new trials yet: %s", entry.id, error)
            except Exception:  # an unexpected row must not hide the other sweeps
                _log.exception("sweep %s", entry.id)

    def conclude(self, entry: Entry) -> SweepRecord:
        """Read an ended sweep to its last row, and store its results in the database."""
        reader = self.reader(entry, 0.0)
        reader.analyse(at_once=True)
        snapshot = reader.snapshot
        self.catalog.change(entry.id, summary=snapshot.model_dump(mode="json"), gpu_hours=snapshot.cost.gpu_hours)
        return snapshot

    def forget(self, sweep: str) -> None:
        """Drop the reader of a sweep."""
        with self._lock:
            self._readers.pop(sweep, None)

    # -- records ------------------------------------------------------------------------------------------------------

    def sweep(self, entry: Entry) -> Sweep:
        """Return the record of a sweep."""
        return Sweep(**self._fields(entry))

    def detail(self, entry: Entry) -> SweepDetail:
        """Return the record of a sweep with its spec and history."""
        history = [
            Transition(state=State(row.state), time=moment(row.time), cause=self.outward.text(row.cause))
            for row in self.catalog.history(entry.id)
        ]
        return SweepDetail(**self._fields(entry), spec=self.outward.spec(entry), transitions=tuple(history))

    def _fields(self, entry: Entry) -> dict[str, Any]:
        state, snapshot = State(entry.state), self._snapshot(entry)
        wall = entry.wall_seconds + (self.catalog.clock() - entry.started if state.active else 0.0)
        return {
            **{k: getattr(entry, k) for k in ("id", "name", "owner", "shared", "space", "priority")},
            "reason": self.outward.text(entry.reason or ""),
            "state": state,
            "sampler": entry.spec.get("sampler", SweepSpec.model_fields["sampler"].default),
            "objective": entry.spec.get("objective", SweepSpec.model_fields["objective"].default),
            "position": self.positions().get(entry.id) if state == State.QUEUED else None,
            "created": moment(entry.created),
            "started": moment(entry.started),
            "ended": moment(entry.ended),
            "progress": snapshot.progress,
            "cost": snapshot.cost.model_copy(update={"wall_seconds": wall}),
            "regime": snapshot.regime,
            "best": snapshot.best,
            "warnings": tuple(map(self.outward.text, snapshot.warnings)),
            "run": entry.id,
            "url": f"/v1/sweeps/{entry.id}",
            "page": f"/?run={entry.id}",
        }

    def _snapshot(self, entry: Entry) -> SweepRecord:
        empty = SweepRecord(progress=Progress(budget=entry.budget))
        if not State(entry.state).active:
            return SweepRecord.model_validate(entry.summary) if entry.summary else empty
        try:
            cached = self._cached(entry)
            if cached.reader.place.local is not None:  # a store may be away, and `follow` reads it anyway
                self._refreshed(entry, 60.0, wait=0)
        except SpecError:
            cached = self._readers.get(entry.id)
        return cached.reader.snapshot if cached else empty

    def trials(
        self,
        entry: Entry,
        after: int = 0,
        limit: int = 100,
        where: Mapping[str, str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> tuple[pa.Table, int, bool]:
        """Return a page of trials; see `Reader.page`.

        Raises:
            SpecError: A column is unknown, or the folder cannot be reached.
        """
        reader = self._refreshed(entry, STALE_SECONDS, WAIT_SECONDS).reader
        table, last, more = reader.page(after, limit, where or {}, columns)
        return self.outward.table(table), last, more

    # -- answers ------------------------------------------------------------------------------------------------------

    def advice(self, entry: Entry, objectives: Sequence[str] = (), **wanted: Any) -> list[Advice]:
        """Return hyperparameters that reach the best noise.

        Args:
            entry: The sweep.
            objectives: Objectives to advise on; by default gain and merged loss.
            wanted: See `sweeper.analysis.recommend.recommend`.

        Raises:
            SpecError: There is no optimum yet, or a value breaks its rule.
        """
        from sweeper.analysis.summary import advise

        def compute(reader: Reader) -> list[Advice]:
            by_objective = advise(self.spec(entry), reader.rows.table, objectives, **wanted)
            return [Advice(objective=name, **advice) for name, advice in by_objective.items()]

        return self._memoize(entry, ("advice", *objectives, repr(sorted(wanted.items()))), compute)

    def settings(self, entry: Entry, **wanted: Any) -> SettingsAdvice:
        """Return settings to use.

        Args:
            entry: The sweep.
            wanted: See `sweeper.analysis.settings.advice.advise_settings`.

        Raises:
            NoSettingsError: There are too few viable trials.
            SpecError: A value breaks its rule or is absurd.
        """
        from sweeper.analysis.settings.advice import advise_settings

        def compute(reader: Reader) -> SettingsAdvice:
            shown = SweepSpec.checked(self.outward.spec(entry))
            record = advise_settings(self.spec(entry), reader.rows.table, shown=shown, **wanted).record()
            return SettingsAdvice.model_validate_json(self.outward.text(json.dumps(record)))

        return self._memoize(entry, ("settings", repr(sorted(wanted.items()))), compute)

    def best(self, entry: Entry) -> dict[str, Any] | None:
        """Return the record of `sweeper best --json`; None if no configuration has won yet."""
        from sweeper.analysis.best import find_over_limits
        from sweeper.analysis.posterior import fit_posterior
        from sweeper.analysis.recommend import find_best
        from sweeper.analysis.scorecard.answer import find_answer
        from sweeper.analysis.summary import find_space

        def compute(reader: Reader) -> dict[str, Any] | None:
            spec, trials = self.spec(entry), reader.rows.table
            if not trials.num_rows or not place_of(self.run_of(entry.id)).exists():
                return None
            posterior = fit_posterior(spec, trials, spec.noise, explain=False)
            best = find_best(trials, spec.objective, spec.noise, posterior, find_over_limits(trials, spec))
            if best is not None:
                best["answer"] = find_answer(spec, find_space(spec), trials, posterior, entry.id).record()
            return best

        return self._memoize(entry, ("best",), compute)

    def weights(self, entry: Entry) -> Path | bytes | None:
        """Return the best merged weights as safetensors: their file, or its content if in a store.

        None if they are not stored.

        Raises:
            SpecError: The folder cannot be reached.
        """
        from sweeper.storage.tables import weights_of

        best = self.best(entry)
        if best is None:
            return None
        place, name = place_of(self.run_of(entry.id)), weights_of(best["digest"])
        if place.local is None:
            return place.read_bytes(name)
        return place.local / name if place.has(name) else None

    def report(self, entry: Entry, server: str) -> Sequence[bytes]:
        """Return the sweep's page as HTML, in parts that all requests share.

        Args:
            entry: The sweep.
            server: URL of the service in the request, for the page's commands.

        Raises:
            SpecError: The folder cannot be reached.
            UnknownSweepError: The folder does not exist.
        """
        from markupsafe import escape

        from dashboards.page import page

        def compute(_: Reader) -> tuple[bytes, ...]:
            run = replace(page.read_run(self.run_of(entry.id), redact=self.outward.text), server=_SERVER)
            html = self.outward.text(page.render_page(run, page.build_sections(run)))
            return tuple(part.encode() for part in html.split(escape(quote(_SERVER))))

        if not place_of(self.run_of(entry.id)).exists():
            raise UnknownSweepError(f"sweep {entry.id} is {entry.state} and has no page: its run folder does not exist")
        # stored once for all URLs of the service
        first, *others = self._memoize(entry, ("report",), compute)
        url = escape(quote(server)).encode()
        return [first, *chain.from_iterable((url, part) for part in others)]

    def plan(self, entry: Entry, options: Mapping[str, Any]) -> Extension:
        """Return the plan of `extend`.

        Raises:
            SpecError: A name is unknown, or no trial is left to run.
        """
        from sweeper.analysis.evidence.plan import plan_extension
        from sweeper.storage.space_data import known_space

        def compute(_: Reader) -> Extension:
            wanted = {k: options.get(k) for k in ("objective", "noise", "repeats", "noises")}
            spec = self.spec(entry)
            known = known_space(spec)
            if known.assumed:
                raise SpecError(f"cannot plan an extension: {known.assumed}")
            extension = plan_extension(spec, known.space, **wanted)
            if not extension.plan.specs:
                raise SpecError("nothing to run: no further trial that can run would make the answer firmer")
            return Extension(id=entry.id, trials=len(extension.plan.specs), message=" ".join(extension.sentences))

        return self._memoize(entry, ("plan", repr(sorted(options.items()))), compute)
