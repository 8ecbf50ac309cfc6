"""Catalog: the service's sweeps, their states and the cause of every change. Every change is one transaction."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Engine, Row, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from sweeper.client.models import ACTIVE, ALLOWED, ENDED, State
from sweeper.errors import SpecError
from sweeper.service.db.tables import DAY_SECONDS, sweeps, transitions, usage

Entry = Row[Any]
"""A row of the table `sweeps`."""


class KeyReusedError(SpecError):
    """Another request already used this Idempotency-Key."""


class StateError(SpecError):
    """The sweep's state does not allow this change."""


class UnknownSweepError(SpecError):
    """The sweep does not exist, or the user may not see it; the message is the same for both."""

    @classmethod
    def of(cls, sweep: str) -> UnknownSweepError:
        """Return the error about a sweep."""
        return cls(f"there is no sweep {sweep!r}; `GET /v1/sweeps` lists the sweeps that you may see")


@dataclass(frozen=True)
class NewSweep:
    """A sweep to add; see the table's columns."""

    owner: str
    space: str
    spec: Mapping[str, Any]
    budget: int
    trials: int
    name: str = ""
    shared: bool = False
    priority: int = 0
    webhook: str | None = None
    key: str | None = None
    fingerprint: str | None = None


class Due(NamedTuple):
    """What waiting and running sweeps may still use; `waiting` counts the sweeps that wait."""

    waiting: int
    trials: int
    gpu_hours: float


class Catalog:
    """The sweeps of a service.

    Args:
        engine: Its database.
        clock: Returns seconds since 1970.
        on_change: Called with a sweep's row after each change of its state.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float] = time.time,
        on_change: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        self.engine, self.clock, self.on_change = engine, clock, on_change

    def add(self, new: NewSweep) -> tuple[Entry, bool]:
        """Queue a sweep.

        Returns:
            Its row, and whether it is new. A repeated request with the same key returns the sweep of the first one.

        Raises:
            KeyReusedError: Another request of this user had the key.
        """
        if earlier := self.find_by_key(new):
            return earlier, False
        now, stem = self.clock(), "".join(c if c.isalnum() else "_" for c in new.space)[:60]
        values = {**vars(new), "spec": dict(new.spec), "id": f"{stem}-{secrets.token_hex(5)}"}
        values |= {"name": new.name or values["id"], "state": State.QUEUED, "reason": "", "task": {"kind": "run"}}
        values |= {"created": now, "queued": now, "wall_seconds": 0.0, "gpu_hours": 0.0, "deaths": 0}
        values |= {"due": new.trials, "due_gpu_seconds": 3600 * (new.spec.get("max_gpu_hours") or 0.0)}
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(sweeps).values(**values))
                connection.execute(
                    insert(transitions).values(sweep=values["id"], state=State.QUEUED, time=now, cause="sent")
                )
        except IntegrityError:  # the same key a moment ago
            if earlier := self.find_by_key(new):
                return earlier, False
            raise
        entry = self.get(values["id"])
        self.on_change(entry)
        return entry, True

    def find_by_key(self, new: NewSweep) -> Entry | None:
        """Return the sweep that an earlier request with the same key created, or None.

        Raises:
            KeyReusedError: Another request of this user had the key.
        """
        if new.key is None:
            return None
        with self.engine.connect() as connection:
            entry = connection.execute(
                select(sweeps).where(sweeps.c.owner == new.owner, sweeps.c.key == new.key)
            ).one_or_none()
        if entry is not None and entry.fingerprint != new.fingerprint:
            raise KeyReusedError(
                f"Idempotency-Key {new.key!r} was used for another request (sweep {entry.id}): use a new key"
            )
        return entry

    def get(self, sweep: str) -> Entry:
        """Return the row of a sweep.

        Raises:
            UnknownSweepError: The sweep does not exist.
        """
        with self.engine.connect() as connection:
            entry = connection.execute(select(sweeps).where(sweeps.c.id == sweep)).one_or_none()
        if entry is None:
            raise UnknownSweepError.of(sweep)
        return entry

    def page(
        self,
        *,
        seen_by: str | None = None,
        states: Sequence[str] = (),
        owner: str | None = None,
        space: str | None = None,
        after: tuple[float, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Entry]:
        """Return rows, newest first.

        Args:
            seen_by: Only sweeps that this user owns or that are shared; None returns all.
            states: Only sweeps in one of these states.
            owner: Only sweeps of this user.
            space: Only sweeps of this space.
            after: `created` and `id` of the last row of the previous page.
            limit: Maximum number of rows.
        """
        wanted = [or_(sweeps.c.owner == seen_by, sweeps.c.shared)] if seen_by is not None else []
        wanted += [sweeps.c.state.in_(states)] if states else []
        wanted += [sweeps.c.owner == owner] if owner is not None else []
        wanted += [sweeps.c.space == space] if space is not None else []
        if after is not None:
            older = and_(sweeps.c.created == after[0], sweeps.c.id < after[1])
            wanted.append(or_(sweeps.c.created < after[0], older))
        query = select(sweeps).where(*wanted).order_by(sweeps.c.created.desc(), sweeps.c.id.desc()).limit(limit)
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def owners(self, seen_by: str | None = None) -> list[str]:
        """Return the owners of sweeps in alphabetical order; `seen_by` as for `page`."""
        wanted = [or_(sweeps.c.owner == seen_by, sweeps.c.shared)] if seen_by is not None else []
        with self.engine.connect() as connection:
            rows = connection.execute(select(sweeps.c.owner).where(*wanted).distinct().order_by(sweeps.c.owner))
            return list(rows.scalars())

    def in_states(self, states: Iterable[State]) -> Sequence[Entry]:
        """Return the rows of sweeps in these states, in the order in which they were queued."""
        query = select(sweeps).where(sweeps.c.state.in_(tuple(states))).order_by(sweeps.c.queued, sweeps.c.id)
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def waiting(self) -> list[Waiting]:
        """Return the waiting sweeps with the values that decide their order."""
        query = select(sweeps.c.id, sweeps.c.owner, sweeps.c.priority, sweeps.c.queued, sweeps.c.due_gpu_seconds)
        with self.engine.connect() as connection:
            return [Waiting(*row) for row in connection.execute(query.where(sweeps.c.state == State.QUEUED))]

    def on_ray(self, states: Iterable[State]) -> set[str]:
        """Return the sweeps in these states that run on Ray, the default runner."""
        runner = func.coalesce(sweeps.c.spec["runner"].as_string(), "ray")
        query = select(sweeps.c.id).where(sweeps.c.state.in_(list(states)), runner == "ray")
        with self.engine.connect() as connection:
            return set(connection.scalars(query))

    def counts(self) -> dict[str, int]:
        """Return the number of sweeps in every state, zeros included."""
        with self.engine.connect() as connection:
            rows = connection.execute(select(sweeps.c.state, func.count()).group_by(sweeps.c.state)).all()
        counts = {str(state): int(count) for state, count in rows}
        return {state.value: counts.get(state.value, 0) for state in State}

    def history(self, sweep: str) -> Sequence[Row[Any]]:
        """Return the changes of a sweep's state, oldest first."""
        query = select(transitions).where(transitions.c.sweep == sweep).order_by(transitions.c.id)
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def move(self, sweep: str, state: State, cause: str, **changes: Any) -> Entry:
        """Change the state of a sweep, and other columns with it.

        Raises:
            UnknownSweepError: The sweep does not exist.
            StateError: Its state does not allow the change; nothing changes.
        """
        before = self.get(sweep)
        old, now = State(before.state), self.clock()
        if state not in ALLOWED[old]:
            raise StateError(f"sweep {sweep} is {old.value}: it cannot become {state.value}")
        values = {"state": state, "reason": cause, **changes}
        values |= {"started": now, "ended": None} if state == State.STARTING else {}
        values |= {"queued": changes.get("queued", now)} if state == State.QUEUED else {}
        values |= {"ended": now} if state in ENDED else {}
        if old in (State.STARTING, State.RUNNING, State.STOPPING) and (state in ENDED or state == State.QUEUED):
            values["wall_seconds"] = before.wall_seconds + now - (before.started or now)
        with self.engine.begin() as connection:
            changed = connection.execute(
                update(sweeps).where(sweeps.c.id == sweep, sweeps.c.state == old).values(**values)
            )
            if changed.rowcount != 1:
                raise StateError(f"sweep {sweep} changed at the same moment: look again")
            connection.execute(insert(transitions).values(sweep=sweep, state=state, time=now, cause=cause))
            # read within the transaction: if the database falls silent afterwards, `on_change` still gets the row
            entry = connection.execute(select(sweeps).where(sweeps.c.id == sweep)).one()
        self.on_change(entry)
        return entry

    def change(self, sweep: str, **changes: Any) -> None:
        """Change columns of a sweep other than its state."""
        with self.engine.begin() as connection:
            connection.execute(update(sweeps).where(sweeps.c.id == sweep).values(**changes))

    def remove(self, sweep: str) -> None:
        """Delete the row of an ended sweep.

        Raises:
            UnknownSweepError: The sweep does not exist.
            StateError: It waits or runs.
        """
        before = self.get(sweep)
        with self.engine.begin() as connection:
            deleted = connection.execute(
                delete(sweeps).where(sweeps.c.id == sweep, sweeps.c.state.in_([s.value for s in ENDED]))
            )
        if deleted.rowcount != 1:
            raise StateError(f"sweep {sweep} is {before.state}: cancel it first")

    def last_starts(self) -> dict[str, float]:
        """Return user -> time at which a process of their sweeps last started."""
        query = select(sweeps.c.owner, func.max(sweeps.c.started)).where(sweeps.c.started.is_not(None))
        with self.engine.connect() as connection:
            rows = connection.execute(query.group_by(sweeps.c.owner)).all()
        return {str(owner): float(started) for owner, started in rows}

    def used(self, owner: str, since: float) -> tuple[int, float]:
        """Return the number and the GPU-hours of a user's trials that landed since a time, in whole days."""
        query = select(func.coalesce(func.sum(usage.c.trials), 0), func.coalesce(func.sum(usage.c.gpu_seconds), 0.0))
        query = query.where(usage.c.user == owner, usage.c.day >= int(since // DAY_SECONDS))
        with self.engine.connect() as connection:
            trials, seconds = connection.execute(query).one()
        return int(trials), float(seconds) / 3600

    def prune_usage(self, before: float) -> None:
        """Delete the usage of all days before the day of a time."""
        with self.engine.begin() as connection:
            connection.execute(delete(usage).where(usage.c.day < int(before // DAY_SECONDS)))

    def due(self, owner: str, but: str = "") -> Due:
        """Return what a user's waiting and running sweeps may still use, except the sweep `but`."""
        waits = case((sweeps.c.state == State.QUEUED, 1), else_=0)
        live = sweeps.c.state.in_((State.QUEUED, *ACTIVE))
        query = select(func.sum(waits), func.sum(sweeps.c.due), func.sum(sweeps.c.due_gpu_seconds))
        with self.engine.connect() as connection:
            sums = connection.execute(query.where(sweeps.c.owner == owner, live, sweeps.c.id != but)).one()
        waiting, trials, seconds = (value or 0 for value in sums)
        return Due(int(waiting), int(trials), float(seconds) / 3600)


def fingerprint(*parts: Any) -> str:
    """Return a digest of a request's content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Waiting(NamedTuple):
    """A waiting sweep, queued at `queued` [s]; `due_gpu_seconds` of the quota are reserved for it. See `order`."""

    id: str
    owner: str
    priority: int
    queued: float
    due_gpu_seconds: float = 0.0
