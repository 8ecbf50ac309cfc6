"""Catalog: the service's sweeps, their states and the causes of each change; every change is one transaction."""

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
    """An Idempotency-Key that another request had."""


class StateError(SpecError):
    """A change that the sweep's state does not allow."""


class UnknownSweepError(SpecError):
    """There is no such sweep, or it may not be seen: the same words for both."""

    @classmethod
    def of(cls, sweep: str) -> UnknownSweepError:
        """Return the error about a sweep."""
        return cls(f"there is no sweep {sweep!r}; `GET /v1/sweeps` lists those that you may see")


@dataclass(frozen=True)
class New:
    """A sweep to be added; see the table's columns."""

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
    """What sweeps that wait or run may still use: how many of them wait, trials, and GPU-hours of `max_gpu_hours`."""

    waiting: int
    trials: int
    gpu_hours: float


class Catalog:
    """The sweeps of a service.

    Args:
        engine: Its database.
        clock: Seconds since 1970.
        told: Called with each sweep's row after a change of its state.
    """

    def __init__(
        self, engine: Engine, clock: Callable[[], float] = time.time, told: Callable[[Entry], None] = lambda _: None
    ) -> None:
        self.engine, self.clock, self.told = engine, clock, told

    def add(self, new: New) -> tuple[Entry, bool]:
        """Queue a sweep.

        Returns:
            Its row, and whether it is new: the same request with the same key yields the sweep that it made before.

        Raises:
            KeyReusedError: Another request of this user had the key.
        """
        if found := self.keyed(new):
            return found, False
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
            if found := self.keyed(new):
                return found, False
            raise
        entry = self.get(values["id"])
        self.told(entry)
        return entry, True

    def keyed(self, new: New) -> Entry | None:
        """Return the sweep that the same request made before; None where there is none.

        Raises:
            KeyReusedError: Another request of this user had the key.
        """
        if new.key is None:
            return None
        with self.engine.connect() as connection:
            found = connection.execute(
                select(sweeps).where(sweeps.c.owner == new.owner, sweeps.c.key == new.key)
            ).one_or_none()
        if found is not None and found.fingerprint != new.fingerprint:
            raise KeyReusedError(
                f"Idempotency-Key {new.key!r} was used for another request (sweep {found.id}): use a new key"
            )
        return found

    def get(self, sweep: str) -> Entry:
        """Return the row of a sweep.

        Raises:
            UnknownSweepError: There is none.
        """
        with self.engine.connect() as connection:
            found = connection.execute(select(sweeps).where(sweeps.c.id == sweep)).one_or_none()
        if found is None:
            raise UnknownSweepError.of(sweep)
        return found

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
        """Return rows, the newest first.

        Args:
            seen_by: Only those that this user may see: own and shared ones; None sees all.
            states: Only those in one of these states.
            owner: Only those of this user.
            space: Only those of this space.
            after: `created` and `id` of the last row of the page before.
            limit: At most so many.
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
        """Return whose sweeps there are, in the order of the alphabet; `seen_by` as for `page`."""
        wanted = [or_(sweeps.c.owner == seen_by, sweeps.c.shared)] if seen_by is not None else []
        with self.engine.connect() as connection:
            found = connection.execute(select(sweeps.c.owner).where(*wanted).distinct().order_by(sweeps.c.owner))
            return list(found.scalars())

    def in_states(self, states: Iterable[State]) -> Sequence[Entry]:
        """Return the rows of sweeps in some states, in the order in which they were queued."""
        query = select(sweeps).where(sweeps.c.state.in_(tuple(states))).order_by(sweeps.c.queued, sweeps.c.id)
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def waiting(self) -> list[Waiting]:
        """Return the sweeps that wait, with what their order goes by."""
        query = select(sweeps.c.id, sweeps.c.owner, sweeps.c.priority, sweeps.c.queued, sweeps.c.due_gpu_seconds)
        with self.engine.connect() as connection:
            return [Waiting(*row) for row in connection.execute(query.where(sweeps.c.state == State.QUEUED))]

    def on_ray(self, states: Iterable[State]) -> set[str]:
        """Return the sweeps in these states that run by Ray, which one does that names no runner."""
        runner = func.coalesce(sweeps.c.spec["runner"].as_string(), "ray")
        query = select(sweeps.c.id).where(sweeps.c.state.in_(list(states)), runner == "ray")
        with self.engine.connect() as connection:
            return set(connection.scalars(query))

    def counts(self) -> dict[str, int]:
        """Return the number of sweeps by state, of all states."""
        with self.engine.connect() as connection:
            found = connection.execute(select(sweeps.c.state, func.count()).group_by(sweeps.c.state)).all()
        known = {str(state): int(count) for state, count in found}
        return {state.value: known.get(state.value, 0) for state in State}

    def history(self, sweep: str) -> Sequence[Row[Any]]:
        """Return the changes of a sweep's state, the oldest first."""
        query = select(transitions).where(transitions.c.sweep == sweep).order_by(transitions.c.id)
        with self.engine.connect() as connection:
            return connection.execute(query).all()

    def move(self, sweep: str, state: State, cause: str, **changes: Any) -> Entry:
        """Change the state of a sweep, with other columns.

        Raises:
            UnknownSweepError: There is none.
            StateError: Its state does not allow it; nothing is changed.
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
                raise StateError(f"sweep {sweep} changed at the same moment: look at it again")
            connection.execute(insert(transitions).values(sweep=sweep, state=state, time=now, cause=cause))
            # before the end of the transaction: a database that falls silent then must not keep the news back
            entry = connection.execute(select(sweeps).where(sweeps.c.id == sweep)).one()
        self.told(entry)
        return entry

    def change(self, sweep: str, **changes: Any) -> None:
        """Change columns of a sweep that are not its state."""
        with self.engine.begin() as connection:
            connection.execute(update(sweeps).where(sweeps.c.id == sweep).values(**changes))

    def remove(self, sweep: str) -> None:
        """Forget a sweep that ended.

        Raises:
            UnknownSweepError: There is none.
            StateError: It waits or runs.
        """
        before = self.get(sweep)
        with self.engine.begin() as connection:
            gone = connection.execute(
                delete(sweeps).where(sweeps.c.id == sweep, sweeps.c.state.in_([s.value for s in ENDED]))
            )
        if gone.rowcount != 1:
            raise StateError(f"sweep {sweep} is {before.state}: cancel it first")

    def last_starts(self) -> dict[str, float]:
        """Return the time at which a process of a user's sweeps was last started, by user."""
        query = select(sweeps.c.owner, func.max(sweeps.c.started)).where(sweeps.c.started.is_not(None))
        with self.engine.connect() as connection:
            found = connection.execute(query.group_by(sweeps.c.owner)).all()
        return {str(owner): float(started) for owner, started in found}

    def used(self, owner: str, since: float) -> tuple[int, float]:
        """Return the trials of a user's sweeps that landed since a time, and their GPU-hours; by whole days."""
        query = select(func.coalesce(func.sum(usage.c.trials), 0), func.coalesce(func.sum(usage.c.gpu_seconds), 0.0))
        query = query.where(usage.c.user == owner, usage.c.day >= int(since // DAY_SECONDS))
        with self.engine.connect() as connection:
            trials, seconds = connection.execute(query).one()
        return int(trials), float(seconds) / 3600

    def forget_used(self, before: float) -> None:
        """Drop what was used on days before that of a time."""
        with self.engine.begin() as connection:
            connection.execute(delete(usage).where(usage.c.day < int(before // DAY_SECONDS)))

    def due(self, owner: str, but: str = "") -> Due:
        """Return what a user's sweeps that wait or run may still use; `but` is left out."""
        waits = case((sweeps.c.state == State.QUEUED, 1), else_=0)
        live = sweeps.c.state.in_((State.QUEUED, *ACTIVE))
        query = select(func.sum(waits), func.sum(sweeps.c.due), func.sum(sweeps.c.due_gpu_seconds))
        with self.engine.connect() as connection:
            found = connection.execute(query.where(sweeps.c.owner == owner, live, sweeps.c.id != but)).one()
        waiting, trials, seconds = (value or 0 for value in found)
        return Due(int(waiting), int(trials), float(seconds) / 3600)


def fingerprint(*parts: Any) -> str:
    """Return a digest of what a request asks for."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Waiting(NamedTuple):
    """A sweep that waits since `queued` [s]; see `order`. `due_gpu_seconds` are its own of the quota; 0 for none."""

    id: str
    owner: str
    priority: int
    queued: float
    due_gpu_seconds: float = 0.0
