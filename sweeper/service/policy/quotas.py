"""Quotas: they limit a user's usage in 30 days plus what the user's waiting and running sweeps may still use.

- A trial counts for 30 whole days (UTC) after it lands, and so does its GPU time. A repeated run counts again.
- The owner of the sweep pays, whoever sent the request. Deleting a sweep refunds nothing.
- A waiting or running sweep reserves the trials that it may still run. When it ends, the rest is free again.
- It also reserves the rest of its `max_gpu_hours`. A sweep without `max_gpu_hours` uses what other sweeps do not
  reserve: it waits while nothing is left, and stops when that is used up. Trials that run then are finished.
- The service refuses a request that would exceed a quota, and a sweep beyond the number that may wait. Admins may
  resume and extend the sweeps of other users regardless.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from sqlalchemy import select

from sweeper.client.models import Quota, State, moment
from sweeper.config.spec import SweepSpec
from sweeper.service.db.sweeps import Catalog, Entry, StateError, UnknownSweepError, Waiting
from sweeper.service.db.tables import DAY_SECONDS, usage
from sweeper.service.policy.errors import RefusedError

WINDOW_SECONDS = 30 * DAY_SECONDS


class Demand(NamedTuple):
    """What a request wants to reserve: trials, and GPU-hours if the sweep has a `max_gpu_hours`."""

    trials: int
    gpu_hours: float = 0.0


def remaining_demand(entry: Entry, spec: SweepSpec, budget: int) -> Demand:
    """Return the demand of an ended sweep that is resumed with `budget` configurations."""
    done = entry.summary["progress"]["done"] if entry.summary else 0
    return Demand(max(0, budget - done) * spec.repeats, remaining_gpu_hours(entry, spec.max_gpu_hours))


def remaining_gpu_hours(entry: Entry, limit: float | None) -> float:
    """Return what a sweep has left of its `max_gpu_hours`, which counts all of its trials; 0 without a limit."""
    return max(0.0, (limit or 0.0) - entry.gpu_hours)


def check_quota(
    catalog: Catalog, owner: str, quota: Quota, demand: Demand, clock: Callable[[], float] = time.time
) -> None:
    """Check that a user's quota covers a demand.

    Args:
        catalog: The sweeps.
        owner: The user's name.
        quota: The user's quota.
        demand: What the request wants to reserve.
        clock: Returns seconds since 1970.

    Raises:
        RefusedError: The quota does not cover it (429); the message says what is used and when enough is free again.
    """
    due = catalog.due(owner)
    if quota.waiting is not None and due.waiting >= quota.waiting:
        raise RefusedError(
            429,
            f"{owner} has {due.waiting} waiting sweeps and may have {quota.waiting}: wait until one has started, or "
            "cancel one",
        )
    since = clock() - WINDOW_SECONDS
    used, hours = catalog.used(owner, since)
    if quota.trials is not None and used + due.trials + demand.trials > quota.trials:
        shortfall = _Shortfall("trials", quota.trials, used, due.trials, demand.trials)
        raise RefusedError(429, f"{owner} {shortfall.sentence}: {_way_out(catalog, owner, since, shortfall)}")
    limit = quota.gpu_hours
    # a sweep without `max_gpu_hours` uses what is left, so something must be left
    if limit is not None and (hours + due.gpu_hours >= limit or hours + due.gpu_hours + demand.gpu_hours > limit):
        shortfall = _Shortfall("GPU-hours", limit, hours, due.gpu_hours, demand.gpu_hours)
        raise RefusedError(429, f"{owner} {shortfall.sentence}: {_way_out(catalog, owner, since, shortfall)}")


class _Shortfall(NamedTuple):
    """A quota that does not cover a demand: the usage in the window, what sweeps may still use, and the demand."""

    unit: str
    limit: float
    used: float
    due: float
    demand: float

    @property
    def sentence(self) -> str:
        used, limit, due, demand = (
            f"{n:.3g}" if isinstance(n, float) else str(n) for n in (self.used, self.limit, self.due, self.demand)
        )
        usage_so_far = f"has used {used} of {limit} {self.unit} in 30 days"
        usage_so_far += f", has sweeps that may use {due} more" if self.due else ""
        return f"{usage_so_far} and asks for {demand} more" if self.demand else usage_so_far


def _way_out(catalog: Catalog, owner: str, since: float, shortfall: _Shortfall) -> str:
    """Return what the user can do, such as the time at which enough of the usage is older than the window."""
    if shortfall.demand > shortfall.limit:
        return "that exceeds the quota"
    lacking = shortfall.used + shortfall.due + shortfall.demand - shortfall.limit
    if 0 < shortfall.due >= lacking:
        return "wait until one of them has ended, or cancel one"
    amount = usage.c.trials if shortfall.unit == "trials" else usage.c.gpu_seconds / 3600
    query = select(usage.c.day, amount).where(usage.c.user == owner, usage.c.day >= int(since // DAY_SECONDS))
    freed = 0.0
    with catalog.engine.connect() as connection:
        for day, part in connection.execute(query.order_by(usage.c.day)):
            freed += part
            if freed >= lacking and part:
                when = moment((day + 1) * DAY_SECONDS + WINDOW_SECONDS)
                return f"enough is free again on {when:%Y-%m-%d %H:%M} UTC"
    return "cancel a waiting or running sweep" if shortfall.due else "ask an admin to raise the quota"


def gpu_hours_left(catalog: Catalog, owner: str, limit: float, but: str = "") -> float:
    """Return the GPU-hours of a user's quota that are neither used nor reserved by sweeps other than `but`."""
    used = catalog.used(owner, catalog.clock() - WINDOW_SECONDS)[1]
    return limit - used - catalog.due(owner, but).gpu_hours


def limit_gpu_hours(
    catalog: Catalog, entry: Entry, max_gpu_hours: float | None, quota: Quota, used: float
) -> float | None:
    """Return the GPU-hours that a sweep may use; None is no limit.

    Args:
        catalog: The sweeps, the owner's others among them.
        entry: The sweep.
        max_gpu_hours: The limit in its spec.
        quota: Its owner's quota.
        used: GPU-hours that it has used, which its limit includes.
    """
    if quota.gpu_hours is None:
        return max_gpu_hours
    left = max(1e-6, gpu_hours_left(catalog, entry.owner, quota.gpu_hours, entry.id) + used)
    return min(max_gpu_hours or left, left)


def select_startable(catalog: Catalog, quota: Callable[[str], Quota], waiting: Iterable[Waiting]) -> list[Waiting]:
    """Return the sweeps that have reserved GPU-hours, or whose owner's quota has unreserved GPU-hours left."""

    @cache
    def has_hours_left(user: str) -> bool:
        limit = quota(user).gpu_hours
        return limit is None or gpu_hours_left(catalog, user, limit) > 0

    return [sweep for sweep in waiting if sweep.due_gpu_seconds > 0 or has_hours_left(sweep.owner)]


def hold_exhausted(catalog: Catalog, quota: Callable[[str], Quota]) -> Callable[[str], Quota]:
    """Return `quota` with `running` 0 for users who have used all their GPU-hours, so their sweeps wait."""

    def limited(user: str) -> Quota:
        base = quota(user)
        if base.gpu_hours is None or catalog.used(user, catalog.clock() - WINDOW_SECONDS)[1] < base.gpu_hours:
            return base
        return base.model_copy(update={"running": 0})

    return limited


def stop_over_quota(catalog: Catalog, quota: Callable[[str], Quota], stop: Callable[[str, str], object]) -> None:
    """Stop the running sweeps whose owners have no GPU-hours left for them.

    Args:
        catalog: The sweeps.
        quota: User -> quota.
        stop: Called with the id of a sweep and what stops it.
    """
    for entry in catalog.in_states((State.STARTING, State.RUNNING)):
        limit = quota(entry.owner).gpu_hours
        if limit is not None and gpu_hours_left(catalog, entry.owner, limit, entry.id) <= 0:
            with suppress(StateError, UnknownSweepError):  # ended meanwhile
                stop(entry.id, f"the quota of {limit:g} GPU-hours in 30 days")
