"""One sweep's folder as the service reads it: rows as they land, progress, best noise; each computed once a change."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pydantic import BaseModel

from sweeper.analysis.best import over_limits, winner
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.regime import fit_regime
from sweeper.analysis.trial_warnings import count_warnings, format_lines
from sweeper.client.models import BestView, Cost, Progress, RegimeView
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import is_value
from sweeper.runner.budgets import gpus_of
from sweeper.search.objectives import resolve_objective
from sweeper.service.db.landing import Landing
from sweeper.service.views.events import Hub
from sweeper.storage.incremental import GrowingTable
from sweeper.storage.location import place_of
from sweeper.storage.schema import SCHEMAS
from trainables.noise import KNOBS
from trainables.registry import unknown

LIGHT = ("number", "outcome", "device", "device_seconds", "members", "warnings")


class Found(BaseModel):
    """What a sweep found so far, as the database keeps it of one that ended."""

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
    """Reads one run folder as it grows; for several threads.

    Args:
        sweep: Id of the sweep.
        spec: The sweep, with `out`.
        budget: Its configurations.
        landing: The order of its trials.
        hub: Told of what is new.
    """

    def __init__(self, sweep: str, spec: SweepSpec, budget: int, landing: Landing, hub: Hub) -> None:
        assert spec.out is not None
        self.sweep, self.spec, self.budget, self.landing, self.hub = sweep, spec, budget, landing, hub
        self.place = place_of(spec.out)
        self.found = Found(progress=Progress(budget=budget))
        self.rows = _Rows()
        self._judged, self._cost = 0, 0.0
        self.changes = 0
        """Number of looks that found anything."""
        self._taken = 0  # `changes` of the trials' table when they were numbered last
        self._judged_at = -math.inf
        self._target: float | None = None
        self._tables = {name: GrowingTable(name) for name in ("trials", "search")}
        self._lock, self._judging = threading.Lock(), threading.Lock()

    # -- looking ------------------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Read what is new; returns whether anything is.

        Raises:
            SpecError: The folder cannot be reached.
            SQLAlchemyError: The database does not take what is new; the next look does.
        """
        with self._lock:
            if self._tables["search"].refresh(self.place):
                self._tell_target()
            trials = self._tables["trials"]
            if not trials.refresh(self.place) and trials.changes == self._taken:
                return False
            new = self.landing.take(trials.rows)
            self._taken = trials.changes
            digests = trials.rows["digest"].to_pylist()
            places = sorted(range(len(digests)), key=lambda i: self.landing.numbers[digests[i]])
            numbers = tuple(self.landing.numbers[digests[i]] for i in places)
            self.rows = _Rows(trials.rows.take(pa.array(places, pa.int64())), numbers)
            self.found = self.found.model_copy(update=self._counted(trials.rows))
            self.changes += 1
            self._tell_trials(trials.rows, new)
            return True

    def _counted(self, trials: pa.Table) -> dict[str, Any]:
        rows = trials.select(LIGHT).to_pylist()
        good = Counter(r["number"] for r in rows if r["outcome"] != "failed" and r["number"] is not None)
        done = {r["number"] for r in rows if r["outcome"] == "pruned"}
        done |= {number for number, count in good.items() if count >= self.spec.repeats}
        failed = {r["number"] for r in rows if r["number"] is not None} - good.keys()
        progress = Progress(
            budget=self.budget, done=len(done), failed=len(failed), trials=len(rows),
            outcomes=dict(Counter(r["outcome"] for r in rows)),
        )  # fmt: skip
        seconds = math.fsum(s for r in rows if (s := r["device_seconds"]) is not None and math.isfinite(s))
        held = math.fsum(gpus_of(r, self.spec.resources) * (r["device_seconds"] or 0.0) for r in rows)
        cost = Cost(device_seconds=seconds, gpu_hours=held / 3600)
        return {
            "progress": progress,
            "cost": cost,
            "warnings": tuple(format_lines(count_warnings(r["warnings"] for r in rows), len(rows))),
        }

    def judge(self, at_once: bool = False) -> None:
        """Find the best noise and the winner of what was read.

        While trials land this takes a twentieth of the time at most, for answers wait for it; or is done at once.
        """
        with self._judging:
            changes, trials = self.changes, self.rows.table
            waited = time.monotonic() - self._judged_at
            if changes == self._judged or (not at_once and waited < max(2.0, 20 * self._cost)):
                return
            started = time.monotonic()
            regime, best = _regime(self.spec, trials), _best(self.spec, trials)
            self._judged, self._judged_at = changes, time.monotonic()
            self._cost = self._judged_at - started
            before = self.found.regime
            self.found = self.found.model_copy(update={"regime": regime, "best": best})
        if regime and (before is None or before.message != regime.message):
            self.hub.publish(self.sweep, "verdict", regime.model_dump(mode="json"))

    # -- telling ------------------------------------------------------------------------------------------------------

    def _tell_trials(self, trials: pa.Table, new: Sequence[int]) -> None:
        column = resolve_objective(self.spec.objective, trials).column
        names = ["digest", "config", "number", "repeat", "outcome", "device_seconds", column]
        for row in trials.select(names).take(pa.array(new, pa.int64())).to_pylist():
            data = {k: _plain(row[k]) for k in names[:-1]}
            data |= {"landed": self.landing.numbers[row["digest"]], "value": _plain(row[column])}
            self.hub.publish(self.sweep, "trial", data)
        if new:
            self.hub.publish(self.sweep, "progress", self.found.progress.model_dump(mode="json"))

    def _tell_target(self) -> None:
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
            after: Number of the last trial that the reader has seen; 0 for none.
            limit: At most so many.
            where: Column -> value that the trials have.
            columns: Columns; None is all.

        Returns:
            The rows, the number to give as `after` for the next page, and whether there are more by now.

        Raises:
            SpecError: An unknown column.
        """
        for name in (*where, *(columns or ())):
            if name not in SCHEMAS["trials"].names:
                raise SpecError(str(unknown("column", name, SCHEMAS["trials"].names)))
        rows = self.rows
        places: Sequence[int] = range(bisect_right(rows.numbers, after), len(rows.numbers))
        for name, text in where.items():
            values = rows.table[name].to_pylist()
            places = [i for i in places if is_value(values[i], text)]
        taken, more = places[:limit], len(places) > limit
        # behind the last page all that was left out is known, too
        last = rows.numbers[taken[-1]] if more else max([after, *rows.numbers[-1:]])
        shown = rows.table.select(list(columns)) if columns else rows.table
        return shown.take(pa.array(taken, pa.int64())), last, more


def _regime(spec: SweepSpec, trials: pa.Table) -> RegimeView | None:
    try:
        found = fit_regime(trials, spec.objective, spec.noise)
    except ValueError:
        return None
    fields = {k: getattr(found, k) for k in ("objective", "noise", "unit", "optimum", "low", "high", "message")}
    return RegimeView(**fields)


def _best(spec: SweepSpec, trials: pa.Table) -> BestView | None:
    row = winner(trials, spec.objective, Posterior(), over_limits(trials, spec))
    if row is None:
        return None
    knobs = {k: row[k] for k in (*KNOBS, "augmentation", "augmentation_strength")}
    return BestView(
        digest=row["digest"], config=row["config"], objective=spec.objective, value=_plain(row["config_mean"]),
        noise=_plain(row[f"noise_{spec.noise}"]), knobs=knobs,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
