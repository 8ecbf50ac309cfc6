"""Reader of one sweep's folder: trials as they land, progress, cost and best noise, computed once per change."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from sweeper.analysis.best import choose_winner, find_over_limits
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.regime import fit_regime
from sweeper.analysis.trial_counts import COUNTED, count_trials, count_warnings, format_lines
from sweeper.client.models import BestView, Cost, Progress, RegimeView
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import is_value
from sweeper.runner.budgets import count_gpus
from sweeper.search.objectives import resolve_objective
from sweeper.service.db.landing import Landing
from sweeper.service.views.events import Hub
from sweeper.storage.incremental import IncrementalTable
from sweeper.storage.location import place_of
from sweeper.storage.schema import SCHEMAS
from trainables.noise import KNOBS
from trainables.registry import unknown

_COLUMNS = (*COUNTED, "device", "members", "warnings")


class Snapshot(BaseModel):
    """Results of a sweep so far; the database stores the last one of an ended sweep."""

    progress: Progress
    cost: Cost = Cost()
    regime: RegimeView | None = None
    best: BestView | None = None
    warnings: tuple[str, ...] = ()


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
        self.snapshot = Snapshot(progress=Progress(budget=budget))
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
            self.snapshot = self.snapshot.model_copy(update=self._summarize(trials.rows))
            self.changes += 1
            self._publish_trials(trials.rows, new)
            return True

    def _summarize(self, trials: pa.Table) -> dict[str, Any]:
        rows = trials.select(_COLUMNS).to_pylist()
        counts = count_trials(rows, self.spec.repeats)
        progress = Progress(
            budget=self.budget, done=counts.done, failed=counts.failed, trials=counts.trials,
            outcomes=dict(counts.outcomes),
        )  # fmt: skip
        gpu_seconds = math.fsum(count_gpus(r, self.spec.resources) * (r["device_seconds"] or 0.0) for r in rows)
        cost = Cost(device_seconds=counts.device_seconds or 0.0, gpu_hours=gpu_seconds / 3600)
        return {
            "progress": progress,
            "cost": cost,
            "warnings": tuple(format_lines(count_warnings(r["warnings"] for r in rows), len(rows))),
        }

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
            regime, best = _regime(self.spec, trials), _best(self.spec, trials)
            self._analysed, self._analysed_at = changes, time.monotonic()
            self._cost = self._analysed_at - started
            before = self.snapshot.regime
            self.snapshot = self.snapshot.model_copy(update={"regime": regime, "best": best})
        if regime and (before is None or before.message != regime.message):
            self.hub.publish(self.sweep, "verdict", regime.model_dump(mode="json"))

    # -- events -------------------------------------------------------------------------------------------------------

    def _publish_trials(self, trials: pa.Table, new: Sequence[int]) -> None:
        column = resolve_objective(self.spec.objective, trials).column
        names = ["digest", "config", "number", "repeat", "outcome", "device_seconds", column]
        for row in trials.select(names).take(pa.array(new, pa.int64())).to_pylist():
            data = {k: _plain(row[k]) for k in names[:-1]}
            data |= {"landed": self.landing.numbers[row["digest"]], "value": _plain(row[column])}
            self.hub.publish(self.sweep, "trial", data)
        if new:
            self.hub.publish(self.sweep, "progress", self.snapshot.progress.model_dump(mode="json"))

    def _publish_target(self) -> None:
        rows = self._tables["search"].rows.select(["number", "noise_target"]).to_pylist()
        last = max(rows, key=lambda r: r["number"], default=None)
        if last and last["noise_target"] != self._target:
            self._target = last["noise_target"]
            data = {"number": last["number"], "noise": self.spec.noise, "target": _plain(self._target)}
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


def _regime(spec: SweepSpec, trials: pa.Table) -> RegimeView | None:
    try:
        regime = fit_regime(trials, spec.objective, spec.noise)
    except ValueError:
        return None
    fields = {k: getattr(regime, k) for k in ("objective", "noise", "unit", "optimum", "low", "high", "message")}
    return RegimeView(**fields)


def _best(spec: SweepSpec, trials: pa.Table) -> BestView | None:
    row = choose_winner(trials, spec.objective, Posterior(), find_over_limits(trials, spec))
    if row is None:
        return None
    knobs = {k: row[k] for k in (*KNOBS, "augmentation", "augmentation_strength")}
    return BestView(
        digest=row["digest"], config=row["config"], objective=spec.objective, value=_plain(row["config_mean"]),
        noise=_plain(row[f"noise_{spec.noise}"]), knobs=knobs,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: None for numbers that are not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
