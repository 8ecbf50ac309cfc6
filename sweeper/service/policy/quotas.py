"""Quotas: what a user may have, by what was used in 30 days and what sweeps that wait or run may still use.

- A trial counts when it lands, and its GPU time with it, for 30 days, by whole days (UTC); one that is run again counts
  again. It is charged to the sweep's owner, whoever asked for it, and stays charged when the sweep is forgotten.
- A sweep that waits or runs counts for the trials that it may still run, too: those that it was sent, resumed or
  extended for, less those that have landed since. What it has not run when it ends is free again.
- In the same way it counts for its `max_gpu_hours`. One without takes what others leave: it waits while there is
  nothing, and is stopped when that is used up; what runs is finished.
- What would pass a quota is refused, and so is a sweep beyond the number that may wait. Admins may resume and extend
  the sweeps of others regardless.
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


class Ask(NamedTuple):
    """What is asked for: trials, and GPU-hours where the sweep has a `max_gpu_hours`."""

    trials: int
    gpu_hours: float = 0.0


def to_go(entry: Entry, spec: SweepSpec, budget: int) -> Ask:
    """Return what a sweep that ended asks for when it is resumed with a spec of so many configurations."""
    done = entry.summary["progress"]["done"] if entry.summary else 0
    return Ask(max(0, budget - done) * spec.repeats, gpu_hours_to_go(entry, spec.max_gpu_hours))


def gpu_hours_to_go(entry: Entry, most: float | None) -> float:
    """Return what a sweep has left of its `max_gpu_hours`, which counts all of its trials; 0 where it has none."""
    return max(0.0, (most or 0.0) - entry.gpu_hours)


def within_quota(catalog: Catalog, owner: str, quota: Quota, ask: Ask, clock: Callable[[], float] = time.time) -> None:
    """Refuse what a user has no quota left for.

    Args:
        catalog: The sweeps.
        owner: The user's name.
        quota: What the user may have.
        ask: What is asked for.
        clock: Seconds since 1970.

    Raises:
        RefusedError: It is more than is left (429); the sentence says what is used, and when some of it is free again.
    """
    due = catalog.due(owner)
    if quota.waiting is not None and due.waiting >= quota.waiting:
        raise RefusedError(
            429,
            f"{owner} has {due.waiting} sweeps waiting and may have {quota.waiting}: wait until one has started, or "
            "cancel one",
        )
    since = clock() - WINDOW_SECONDS
    used, hours = catalog.used(owner, since)
    if quota.trials is not None and used + due.trials + ask.trials > quota.trials:
        found = _Lacking("trials", quota.trials, used, due.trials, ask.trials)
        raise RefusedError(429, f"{owner} {found.sentence}: {_way_out(catalog, owner, since, found)}")
    most = quota.gpu_hours
    # one that asks for none takes what is left, and there must be some
    if most is not None and (hours + due.gpu_hours >= most or hours + due.gpu_hours + ask.gpu_hours > most):
        found = _Lacking("GPU-hours", most, hours, due.gpu_hours, ask.gpu_hours)
        raise RefusedError(429, f"{owner} {found.sentence}: {_way_out(catalog, owner, since, found)}")


class _Lacking(NamedTuple):
    """A quota that does not suffice: what is used in the window, what sweeps may still use, what is asked for."""

    what: str
    most: float
    used: float
    due: float
    asked: float

    @property
    def sentence(self) -> str:
        used, most, due, asked = (
            f"{n:.3g}" if isinstance(n, float) else str(n) for n in (self.used, self.most, self.due, self.asked)
        )
        found = f"has used {used} of {most} {self.what} in 30 days"
        found += f", has sweeps that may use {due} more" if self.due else ""
        return f"{found} and asks for {asked} more" if self.asked else found


def _way_out(catalog: Catalog, owner: str, since: float, found: _Lacking) -> str:
    """Return what the user can do, and when so much of what was used is older than the window."""
    if found.asked > found.most:
        return "that is more than the quota"
    lacking = found.used + found.due + found.asked - found.most
    if 0 < found.due >= lacking:
        return "wait until one of them has ended, or cancel one"
    amount = usage.c.trials if found.what == "trials" else usage.c.gpu_seconds / 3600
    query = select(usage.c.day, amount).where(usage.c.user == owner, usage.c.day >= int(since // DAY_SECONDS))
    freed = 0.0
    with catalog.engine.connect() as connection:
        for day, part in connection.execute(query.order_by(usage.c.day)):
            freed += part
            if freed >= lacking and part:
                when = moment((day + 1) * DAY_SECONDS + WINDOW_SECONDS)
                return f"enough of it is free on {when:%Y-%m-%d %H:%M} UTC"
    return "cancel what waits or runs" if found.due else "an admin may raise it"


def gpu_hours_left(catalog: Catalog, owner: str, most: float, but: str = "") -> float:
    """Return the GPU-hours of a user's quota that are neither used nor set aside by sweeps, `but` one of them."""
    used = catalog.used(owner, catalog.clock() - WINDOW_SECONDS)[1]
    return most - used - catalog.due(owner, but).gpu_hours


def gpu_hours_of(catalog: Catalog, entry: Entry, asked: float | None, quota: Quota, own: float) -> float | None:
    """Return the GPU-hours that a sweep may use; None is no bound.

    Args:
        catalog: Has the owner's other sweeps.
        entry: The sweep.
        asked: Its `max_gpu_hours`.
        quota: What its owner may have.
        own: What it has used, which counts in its own budget.
    """
    if quota.gpu_hours is None:
        return asked
    left = max(1e-6, gpu_hours_left(catalog, entry.owner, quota.gpu_hours, entry.id) + own)
    return min(asked or left, left)


def startable(catalog: Catalog, quota: Callable[[str], Quota], waiting: Iterable[Waiting]) -> list[Waiting]:
    """Return the sweeps but those that have no GPU-hours of their own while others of their owner may use all."""

    @cache
    def some(user: str) -> bool:
        most = quota(user).gpu_hours
        return most is None or gpu_hours_left(catalog, user, most) > 0

    return [sweep for sweep in waiting if sweep.due_gpu_seconds > 0 or some(sweep.owner)]


def holding(catalog: Catalog, quota: Callable[[str], Quota]) -> Callable[[str], Quota]:
    """Return what users may have, by which the sweeps of one who has used all GPU-hours wait."""

    def held(user: str) -> Quota:
        found = quota(user)
        if found.gpu_hours is None or catalog.used(user, catalog.clock() - WINDOW_SECONDS)[1] < found.gpu_hours:
            return found
        return found.model_copy(update={"running": 0})

    return held


def stop_beyond(catalog: Catalog, quota: Callable[[str], Quota], stop: Callable[[str, str], object]) -> None:
    """Stop the sweeps that run and whose owners have no GPU-hours left for them.

    Args:
        catalog: The sweeps.
        quota: User -> what it may have.
        stop: Called with the id of a sweep, and by what it is stopped.
    """
    for entry in catalog.in_states((State.STARTING, State.RUNNING)):
        most = quota(entry.owner).gpu_hours
        if most is not None and gpu_hours_left(catalog, entry.owner, most, entry.id) <= 0:
            with suppress(StateError, UnknownSweepError):  # it has ended meanwhile
                stop(entry.id, f"the quota of {most:g} GPU-hours in 30 days")
