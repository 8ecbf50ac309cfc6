"""Estimates of a sweep's cost from its spec and earlier sweeps of its space."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Protocol

import pyarrow as pa

from sweeper.client.models import Estimate
from sweeper.errors import AwayError, SpecError, StorageError
from sweeper.formatting import pluralize
from sweeper.service.db.sweeps import Catalog, Entry
from sweeper.service.db.users import User
from sweeper.service.policy.admission import Admission

LOOKED_AT, TAKEN, TRIALS = 30, 5, 1000
"""Sweeps that are considered, sweeps whose trials are read, and trials per sweep."""
_KEPT = 256


class TrialReader(Protocol):
    """Reads trials of a sweep; see `Views.trials`."""

    def trials(
        self, entry: Entry, after: int, limit: int, where: Mapping[str, str], columns: Sequence[str] | None
    ) -> tuple[pa.Table, int, bool]:
        """Return trials, the number of the last one, and whether more follow."""
        ...


class Estimates:
    """Estimates the cost of sweeps.

    Args:
        catalog: The sweeps.
        views: Reads their trials.
        slots: Parallel trials of a sweep with `workers: auto`; None if unknown.
    """

    def __init__(self, catalog: Catalog, views: TrialReader, slots: int | None = None) -> None:
        self.catalog, self.views, self.slots = catalog, views, slots
        self._lock = threading.Lock()
        self._seconds: dict[tuple[Any, ...], list[float]] = {}  # sweep and state -> device seconds of its trials

    def of(self, admitted: Admission, user: User) -> Estimate:
        """Return the estimated cost of a sweep, based on earlier sweeps that the user may see."""
        wanted = _kind(admitted.values)
        seen_by = None if user.admin else user.name
        rows = self.catalog.page(seen_by=seen_by, space=admitted.space, limit=LOOKED_AT)
        seconds: list[float] = []
        based_on: list[str] = []
        for entry in rows:
            if len(based_on) == TAKEN:
                break
            try:
                durations = self._read_seconds(entry) if _kind(entry.spec) == wanted else []
            except AwayError:  # the sender waits for the store once, not once per earlier sweep
                break
            if durations:
                seconds += durations
                based_on.append(entry.id)
        shape = f"{pluralize(admitted.budget, 'configuration')}, {pluralize(admitted.trials, 'trial')}"
        if not seconds:
            message = f"{shape}; duration unknown without an earlier sweep of {admitted.space}"
            return Estimate(configurations=admitted.budget, trials=admitted.trials, message=message)
        each = median(seconds)
        total = each * admitted.trials
        workers = self._parallel_trials(admitted)
        basis = pluralize(len(based_on), "earlier sweep")
        return Estimate(
            configurations=admitted.budget,
            trials=admitted.trials,
            seconds_per_trial=each,
            device_seconds=total,
            wall_seconds=total / min(workers, admitted.trials) if workers else None,
            based_on=tuple(based_on),
            message=f"{shape} of {each:.3g} s of device time each, as in {basis} of {admitted.space}",
        )

    def _parallel_trials(self, admitted: Admission) -> int | None:
        if admitted.spec.runner == "inline":
            return 1
        workers = admitted.spec.workers
        return workers if isinstance(workers, int) else self.slots and max(1, self.slots // admitted.spec.threads)

    def _read_seconds(self, entry: Entry) -> list[float]:
        key = (entry.id, entry.state, entry.ended)
        with self._lock:
            known = self._seconds.get(key)
        if known is not None and entry.ended is not None:
            return known
        try:
            table = self.views.trials(entry, 0, TRIALS, {}, ["device_seconds"])[0]
        except AwayError:
            raise
        except (SpecError, StorageError, OSError):
            return []  # without its folder; other sweeps may do
        seconds = [s for s in table["device_seconds"].to_pylist() if s is not None and s > 0]
        with self._lock:
            if len(self._seconds) >= _KEPT:
                self._seconds.clear()
            self._seconds[key] = seconds
        return seconds


def _kind(values: Mapping[str, Any]) -> tuple[Any, ...]:
    # keys that change the duration of a trial of the same space
    resources = values.get("resources") or {}
    return bool(values.get("smoke")), resources.get("gpus_per_pair"), resources.get("gpus_per_member")
