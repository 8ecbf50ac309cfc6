"""What the service shows of its sweeps; run folders of those that run are read once a second, of others when asked."""

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

from sweeper.client.models import Advice, Extension, Progress, State, Sweep, SweepDetail, Transition, moment
from sweeper.config.spec import SweepSpec
from sweeper.errors import AwayError, SpecError
from sweeper.service.db.landing import Landing
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError
from sweeper.service.views.events import Hub
from sweeper.service.views.memo import Answers
from sweeper.service.views.outward import Outward
from sweeper.service.views.reader import Found, Reader
from sweeper.storage.location import place_of

_log = logging.getLogger("sweeper.service")
KEPT = 64
_SERVER = "\ue000"
"""Stands for the service's URL in a page that is kept: a character that no text has."""
STALE_SECONDS = 2.0
AWAY_SECONDS = 5.0
"""For so long a folder that could not be reached is not looked at again."""
WAIT_SECONDS = 5.0
"""For so long a request waits for another one's look, with a thread that others need."""

T = TypeVar("T")


@dataclass
class _Kept:
    """A reader, and what became of its last look."""

    reader: Reader
    of: tuple[Any, int]
    """Spec and budget that it reads by."""
    number: int
    looking: threading.Lock = field(default_factory=threading.Lock)
    seen: float = -math.inf
    """When the last look began that succeeded."""
    away: tuple[float, str] | None = None
    """When a later one failed, and why."""


class Views:
    """Reads the sweeps of a service; for several threads.

    Args:
        catalog: The sweeps.
        hub: Told of what lands.
        run_of: Sweep -> its run folder's path or URI.
        positions: Returns the places of waiting sweeps in the queue.
        outward: Turns messages and tables into what others may read.
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
        self._readers: OrderedDict[str, _Kept] = OrderedDict()
        self._numbers = count()
        self._lock = threading.Lock()
        self._answers = Answers()

    def spec(self, entry: Entry) -> SweepSpec:
        """Return a sweep's spec, with its run folder."""
        return SweepSpec.checked({**entry.spec, "out": self.run_of(entry.id)})

    # -- reading ------------------------------------------------------------------------------------------------------

    def reader(self, entry: Entry, seconds: float = STALE_SECONDS) -> Reader:
        """Return the reader of a sweep, which looked at the folder so many seconds ago at most.

        Raises:
            AwayError: The folder cannot be reached, or could not a moment ago.
        """
        return self._looked(entry, seconds).reader

    def _known(self, entry: Entry) -> _Kept:
        of = entry.spec, entry.budget
        with self._lock:
            kept = self._readers.get(entry.id)
        if kept is None or kept.of != of:  # new, or resumed with another spec
            spec, catalog = self.spec(entry), self.catalog
            landing = Landing(catalog.engine, entry.id, spec.resources, catalog.clock)
            made = _Kept(Reader(entry.id, spec, entry.budget, landing, self.hub), of, next(self._numbers))
            with self._lock:
                kept = self._readers.get(entry.id)
                if kept is None or kept.of != of:
                    kept = made
        with self._lock:
            self._readers[entry.id] = kept
            self._readers.move_to_end(entry.id)
            while len(self._readers) > KEPT:
                self._readers.popitem(last=False)
        return kept

    def _looked(self, entry: Entry, seconds: float, wait: float = -1) -> _Kept:
        kept = self._known(entry)
        since = time.monotonic() - seconds
        if kept.seen < since or kept.away:
            if kept.looking.acquire(timeout=wait):
                try:
                    self._look(kept, since)
                finally:
                    kept.looking.release()
            elif wait:
                raise AwayError(f"{kept.reader.place.text} does not answer within {wait:g} s")
        return kept

    def _look(self, kept: _Kept, since: float) -> None:
        """Look at a folder unless somebody else has done so since; who waited for that one fails as it did."""
        now = time.monotonic()
        if kept.away is not None and now - kept.away[0] < AWAY_SECONDS:
            raise AwayError(kept.away[1])
        if kept.seen >= since:
            return
        try:
            kept.reader.refresh()
        except AwayError as error:
            kept.away = time.monotonic(), str(error)
            raise
        kept.seen, kept.away = now, None

    def _answered(self, entry: Entry, of: tuple[Hashable, ...], compute: Callable[[Reader], T]) -> T:
        """Return an answer that takes long; the same one until the sweep's folder, spec or state changes."""
        kept = self._looked(entry, STALE_SECONDS, WAIT_SECONDS)
        asked = json.dumps(entry.spec, sort_keys=True, default=str)
        key = (entry.id, kept.number, kept.reader.changes, entry.state, asked, *of)
        return self._answers.of(key, lambda: compute(kept.reader))

    def follow(self, entries: Iterable[Entry]) -> None:
        """Look at the folders of sweeps that run; one that cannot be read now is left as it was seen last."""
        for entry in entries:
            try:
                reader = self.reader(entry, 0.0)
                reader.judge()
            except SpecError:
                continue
            except SQLAlchemyError as error:
                _log.warning("sweep %s: what landed is not written down yet: %s", entry.id, error)
            except Exception:  # a row that nobody can judge must not hide the other sweeps
                _log.exception("sweep %s", entry.id)

    def conclude(self, entry: Entry) -> Found:
        """Read a sweep that ended to its last row, and keep what it found in the database."""
        reader = self.reader(entry, 0.0)
        reader.judge(at_once=True)
        found = reader.found
        self.catalog.change(entry.id, summary=found.model_dump(mode="json"), gpu_hours=found.cost.gpu_hours)
        return found

    def forget(self, sweep: str) -> None:
        """Drop what is known of a sweep."""
        with self._lock:
            self._readers.pop(sweep, None)

    # -- showing ------------------------------------------------------------------------------------------------------

    def sweep(self, entry: Entry) -> Sweep:
        """Return a sweep as it stands."""
        return Sweep(**self._fields(entry))

    def detail(self, entry: Entry) -> SweepDetail:
        """Return a sweep with its spec and its history."""
        history = [
            Transition(state=State(row.state), time=moment(row.time), cause=self.outward.text(row.cause))
            for row in self.catalog.history(entry.id)
        ]
        return SweepDetail(**self._fields(entry), spec=self.outward.spec(entry), transitions=tuple(history))

    def _fields(self, entry: Entry) -> dict[str, Any]:
        state, found = State(entry.state), self._found(entry)
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
            "progress": found.progress,
            "cost": found.cost.model_copy(update={"wall_seconds": wall}),
            "regime": found.regime,
            "best": found.best,
            "warnings": tuple(map(self.outward.text, found.warnings)),
            "run": entry.id,
            "url": f"/v1/sweeps/{entry.id}",
            "page": f"/?run={entry.id}",
        }

    def _found(self, entry: Entry) -> Found:
        if not State(entry.state).active:
            return (
                Found.model_validate(entry.summary) if entry.summary else Found(progress=Progress(budget=entry.budget))
            )
        try:
            kept = self._known(entry)
            if kept.reader.place.local is not None:  # a store may be away, and `follow` looks at it
                self._looked(entry, 60.0, wait=0)
        except SpecError:
            kept = self._readers.get(entry.id)
        return kept.reader.found if kept else Found(progress=Progress(budget=entry.budget))

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
            SpecError: An unknown column, or the folder cannot be reached.
        """
        reader = self._looked(entry, STALE_SECONDS, WAIT_SECONDS).reader
        table, last, more = reader.page(after, limit, where or {}, columns)
        return self.outward.table(table), last, more

    # -- answers ------------------------------------------------------------------------------------------------------

    def advice(self, entry: Entry, objectives: Sequence[str] = (), **wanted: Any) -> list[Advice]:
        """Return hyperparameters that reach the best noise.

        Args:
            entry: The sweep.
            objectives: What to advise on; by default gain and merged loss.
            wanted: See `sweeper.analysis.recommend.recommend`.

        Raises:
            SpecError: There is no optimum yet, or a value breaks its rule.
        """
        from sweeper.analysis.summary import advise

        def compute(reader: Reader) -> list[Advice]:
            found = advise(self.spec(entry), reader.rows.table, objectives, **wanted)
            return [Advice(objective=name, **advice) for name, advice in found.items()]

        return self._answered(entry, ("advice", *objectives, repr(sorted(wanted.items()))), compute)

    def best(self, entry: Entry) -> dict[str, Any] | None:
        """Return the configuration to take home as `sweeper best --json` has it; None where nothing won yet."""
        from sweeper.analysis.best import over_limits
        from sweeper.analysis.posterior import fit_posterior
        from sweeper.analysis.recommend import find_best

        def compute(reader: Reader) -> dict[str, Any] | None:
            spec, trials = self.spec(entry), reader.rows.table
            if not trials.num_rows or not place_of(self.run_of(entry.id)).exists():
                return None
            believed = fit_posterior(spec, trials, spec.noise)
            return find_best(trials, spec.objective, spec.noise, believed, over_limits(trials, spec))

        return self._answered(entry, ("best",), compute)

    def weights(self, entry: Entry) -> Path | bytes | None:
        """Return the best merged weights, safetensors: their file, or its content where it lies in a store.

        None where they are not kept.

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
        """Return the sweep's page as HTML, in parts that all who ask share.

        Args:
            entry: The sweep.
            server: URL of the service as whoever asks reached it, for the page's commands.

        Raises:
            SpecError: The folder cannot be reached.
            UnknownSweepError: There is no folder yet, or no more.
        """
        from markupsafe import escape

        from dashboards.page import page

        def compute(_: Reader) -> tuple[bytes, ...]:
            run = replace(page.read_run(self.run_of(entry.id), outward=self.outward.text), server=_SERVER)
            html = self.outward.text(page.render(run, page.sections(run)))
            return tuple(part.encode() for part in html.split(escape(quote(_SERVER))))

        if not place_of(self.run_of(entry.id)).exists():
            raise UnknownSweepError(f"sweep {entry.id} is {entry.state} and has no page: its run folder is not there")
        # kept for all who ask, wherever they reached the service
        first, *others = self._answered(entry, ("report",), compute)
        here = escape(quote(server)).encode()
        return [first, *chain.from_iterable((here, part) for part in others)]

    def plan(self, entry: Entry, options: Mapping[str, Any]) -> Extension:
        """Return what `extend` would run.

        Raises:
            SpecError: An unknown name, or nothing to run.
        """
        from sweeper.analysis.evidence.plan import plan_extension
        from sweeper.storage.space_data import known_space

        def compute(_: Reader) -> Extension:
            wanted = {k: options.get(k) for k in ("objective", "noise", "repeats", "noises")}
            spec = self.spec(entry)
            known = known_space(spec)
            if known.assumed:
                raise SpecError(f"nothing can be planned: {known.assumed}")
            asked = plan_extension(spec, known.space, **wanted)
            if not asked.plan.specs:
                raise SpecError("nothing to run: all that a firm answer lacks and that can be run is there")
            return Extension(id=entry.id, trials=len(asked.plan.specs), message=" ".join(asked.sentences))

        return self._answered(entry, ("plan", repr(sorted(options.items()))), compute)
