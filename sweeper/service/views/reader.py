"""Reader of one sweep's folder: trials as they land, progress, cost and best noise, computed once per change."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sweeper.analysis.summary import count_sweep, record_sweep
from sweeper.client.models import Progress, SweepRecord
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import finite_or_none, is_value
from sweeper.search.objectives import resolve_objective
from sweeper.service.db.landing import Landing
from sweeper.service.views.events import Hub
from sweeper.storage.incremental import IncrementalTable
from sweeper.storage.location import place_of
from sweeper.storage.schema import SCHEMAS
from trainables.registry import unknown


@dataclass(frozen=True)
class _Rows:
    """Trials in the order in which they landed."""

    table: pa.Table = field(default_factory=lambda: SCHEMAS["trials"].empty_table())
    numbers: tuple[int, ...] = ()


class Reader:
    """Reads one run folder as it grows; thread-safe.

    Args:
        sweep: Id of the sweep.
        spec: The spec, with `out`.
        budget: Number of configurations.
        landing: Numbers the trials.
        hub: Receives the events.
    """

    def __init__(self, sweep: str, spec: SweepSpec, budget: int, landing: Landing, hub: Hub) -> None:
        assert spec.out is not None
        self.sweep, self.spec, self.budget, self.landing, self.hub = sweep, spec, budget, landing, hub
        self.place = place_of(spec.out)
        self.snapshot = SweepRecord(progress=Progress(budget=budget))
        self.rows = _Rows()
        self._analysed, self._cost = 0, 0.0
        self.changes = 0
        """Number of reads with new trials."""
        self._numbered = 0  # `changes` of the trials table at the last numbering
        self._analysed_at = -math.inf
        self._target: float | None = None
        self._tables = {name: IncrementalTable(name) for name in ("trials", "search")}
        self._lock, self._analysing = threading.Lock(), threading.Lock()

    # -- reading ------------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read new trials; returns whether there are any.

        Raises:
            SpecError: The folder cannot be reached.
            SQLAlchemyError: The database cannot store their numbers; the next call tries again.
        """
        with self._lock:
            if self._tables["search"].refresh(self.place):
                self._publish_target()
            trials = self._tables["trials"]
            if not trials.refresh(self.place) and trials.changes == self._numbered:
                return False
            new = self.landing.take(trials.rows)
            self._numbered = trials.changes
            digests = trials.rows["digest"].to_pylist()
            places = sorted(range(len(digests)), key=lambda i: self.landing.numbers[digests[i]])
            numbers = tuple(self.landing.numbers[digests[i]] for i in places)
            self.rows = _Rows(trials.rows.take(pa.array(places, pa.int64())), numbers)
            counted = count_sweep(self.spec, trials.rows, self.budget)
            known = {"regime": self.snapshot.regime, "best": self.snapshot.best}
            self.snapshot = counted.model_copy(update=known)
            self.changes += 1
            self._publish_trials(trials.rows, new)
            return True

    def analyse(self, at_once: bool = False) -> None:
        """Find the best noise and the winner among the trials read so far.

        Unless `at_once`, this uses at most a twentieth of the time, since it slows down requests.
        """
        with self._analysing:
            changes, trials = self.changes, self.rows.table
            waited = time.monotonic() - self._analysed_at
            if changes == self._analysed or (not at_once and waited < max(2.0, 20 * self._cost)):
                return
            started = time.monotonic()
            record = record_sweep(self.spec, trials, self.budget)
            self._analysed, self._analysed_at = changes, time.monotonic()
            self._cost = self._analysed_at - started
            before = self.snapshot
            self.snapshot = before.model_copy(update={"regime": record.regime, "best": record.best})
        if record.regime and (before.regime is None or before.regime.message != record.regime.message):
            self.hub.publish(self.sweep, "verdict", record.regime.model_dump(mode="json"))
        if record.best and record.best != before.best:
            self.hub.publish(self.sweep, "best", record.best.model_dump(mode="json"))

    # -- events -------------------------------------------------------------------------------------------------------

    def _publish_trials(self, trials: pa.Table, new: Sequence[int]) -> None:
        column = resolve_objective(self.spec.objective, trials).column
        names = ["digest", "config", "number", "repeat", "outcome", "device_seconds", column]
        for row in trials.select(names).take(pa.array(new, pa.int64())).to_pylist():
            data = {k: finite_or_none(row[k]) for k in names[:-1]}
            data |= {"landed": self.landing.numbers[row["digest"]], "value": finite_or_none(row[column])}
            self.hub.publish(self.sweep, "trial", data)
        if new:
            self.hub.publish(self.sweep, "progress", self.snapshot.progress.model_dump(mode="json"))

    def _publish_target(self) -> None:
        rows = self._tables["search"].rows.select(["number", "noise_target"]).to_pylist()
        last = max(rows, key=lambda r: r["number"], default=None)
        if last and last["noise_target"] != self._target:
            self._target = last["noise_target"]
            data = {"number": last["number"], "noise": self.spec.noise, "target": finite_or_none(self._target)}
            self.hub.publish(self.sweep, "target", data)

    # -- pages --------------------------------------------------------------------------------------------------------

    def page(
        self, after: int, limit: int, where: Mapping[str, str], columns: Sequence[str] | None
    ) -> tuple[pa.Table, int, bool]:
        """Return trials in the order in which they landed.

        Args:
            after: Number of the last trial of the previous page; 0 for the first page.
            limit: Maximum number of rows.
            where: Column -> value; only rows with these values.
            columns: Columns to return; None is all.

        Returns:
            The rows, the `after` of the next page, and whether more rows exist now.

        Raises:
            SpecError: A column is unknown.
        """
        for name in (*where, *(columns or ())):
            if name not in SCHEMAS["trials"].names:
                raise SpecError(str(unknown("column", name, SCHEMAS["trials"].names)))
        rows = self.rows
        places: Sequence[int] = range(bisect_right(rows.numbers, after), len(rows.numbers))
        for name, text in where.items():
            values = rows.table[name].to_pylist()
            places = [i for i in places if is_value(values[i], text)]
        selected, more = places[:limit], len(places) > limit
        # after the last page, skip the rows that `where` excludes
        last = rows.numbers[selected[-1]] if more else max([after, *rows.numbers[-1:]])
        table = rows.table.select(list(columns)) if columns else rows.table
        return table.take(pa.array(selected, pa.int64())), last, more
