"""The order in which a sweep's trials landed: pages of it stay right while more of them come. What lands is charged."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection, Engine, case, delete, func, insert, select, update

from sweeper.config.resources import Resources
from sweeper.runner.budgets import gpus_of
from sweeper.service.db.sweeps import UnknownSweepError
from sweeper.service.db.tables import DAY_SECONDS, landed, sweeps, usage

CHUNK = 500
_COLUMNS = ("digest", "outcome", "started", "device", "device_seconds", "members")


class Landing:
    """Numbers of the trials of one sweep, from 1 in the order in which the service saw them; kept in its database.

    A trial that is run again, because it had failed, gets a new number: a reader who has seen it sees it again. Each
    number is charged to the sweep's owner in the same transaction: one trial, and the GPU time that it took.

    Args:
        engine: The database.
        sweep: Id of the sweep.
        resources: What its trials hold.
        clock: Seconds since 1970.
    """

    def __init__(
        self, engine: Engine, sweep: str, resources: Resources, clock: Callable[[], float] = time.time
    ) -> None:
        self.engine, self.sweep, self.resources, self.clock = engine, sweep, resources, clock
        self._lock = threading.Lock()
        with engine.connect() as connection:
            found = _known(connection, sweep)
        self.marks = {digest: mark for digest, (mark, _) in found.items()}
        self.numbers = {digest: number for digest, (_, number) in found.items()}

    def take(self, trials: pa.Table) -> list[int]:
        """Number the trials that are new: all of them, or none where the database does not take them.

        Returns:
            Positions of the new rows in `trials`, in the order of their numbers.

        Raises:
            UnknownSweepError: The sweep is forgotten.
            SQLAlchemyError: The database does not answer; the next call takes what this one could not.
        """
        rows = trials.select(_COLUMNS).to_pylist()
        marks = {row["digest"]: f"{row['outcome']} {row['started']}"[:80] for row in rows}
        with self._lock:
            new = [i for i, row in enumerate(rows) if self.marks.get(row["digest"]) != marks[row["digest"]]]
            if not new:
                return []
            new.sort(key=lambda i: (str(rows[i]["started"]), i))
            with self.engine.begin() as connection:
                owner = self._held(connection)
                # another reader of this sweep may have been quicker
                numbers, last = self._there(connection, [rows[i]["digest"] for i in new], marks)
                new = [i for i in new if rows[i]["digest"] not in numbers]
                fresh = {rows[i]["digest"]: last + n for n, i in enumerate(new, 1)}
                self._store(connection, fresh, marks)
                if new:
                    self._charge(connection, owner, [rows[i] for i in new])
            numbers |= fresh
            self.numbers |= numbers
            self.marks |= {digest: marks[digest] for digest in numbers}
        return new

    def _held(self, connection: Connection) -> str:
        """Keep the sweep's row from others until the transaction ends; returns its owner."""
        own = sweeps.c.id == self.sweep
        if connection.execute(update(sweeps).where(own).values(due=sweeps.c.due)).rowcount != 1:
            raise UnknownSweepError.of(self.sweep)
        return connection.execute(select(sweeps.c.owner).where(own)).scalar_one()

    def _there(
        self, connection: Connection, digests: Sequence[str], marks: Mapping[str, str]
    ) -> tuple[dict[str, int], int]:
        """Return the numbers that rows have in the database, and the last of all."""
        last = select(func.coalesce(func.max(landed.c.number), 0)).where(landed.c.sweep == self.sweep)
        found: dict[str, int] = {}
        for start in range(0, len(digests), CHUNK):
            known = _known(connection, self.sweep, digests[start : start + CHUNK])
            found |= {digest: number for digest, (mark, number) in known.items() if mark == marks[digest]}
        return found, connection.execute(last).scalar_one()

    def _store(self, connection: Connection, numbers: Mapping[str, int], marks: Mapping[str, str]) -> None:
        digests = list(numbers)
        for start in range(0, len(digests), CHUNK):
            some = digests[start : start + CHUNK]
            rows = [{"sweep": self.sweep, "digest": d, "number": numbers[d], "mark": marks[d]} for d in some]
            connection.execute(delete(landed).where(landed.c.sweep == self.sweep, landed.c.digest.in_(some)))
            connection.execute(insert(landed), rows)

    def _charge(self, connection: Connection, owner: str, rows: Sequence[Mapping[str, Any]]) -> None:
        seconds = [row["device_seconds"] or 0.0 for row in rows]
        held = math.fsum(
            gpus_of(row, self.resources) * s for row, s in zip(rows, seconds, strict=True) if math.isfinite(s)
        )
        row = {"sweep": self.sweep, "day": int(self.clock() // DAY_SECONDS)}
        own = [usage.c[name] == value for name, value in row.items()]
        more = {"trials": usage.c.trials + len(rows), "gpu_seconds": usage.c.gpu_seconds + held}
        if not connection.execute(update(usage).where(*own).values(**more)).rowcount:
            connection.execute(insert(usage).values(**row, user=owner, trials=len(rows), gpu_seconds=held))
        left = {
            name: case((sweeps.c[name] > used, sweeps.c[name] - used), else_=0)
            for name, used in (("due", len(rows)), ("due_gpu_seconds", held))
        }
        connection.execute(update(sweeps).where(sweeps.c.id == self.sweep).values(**left))


def _known(connection: Connection, sweep: str, digests: Sequence[str] | None = None) -> dict[str, tuple[str, int]]:
    """Return digest -> mark and number of what has landed; all, or of some digests."""
    query = select(landed.c.digest, landed.c.mark, landed.c.number).where(landed.c.sweep == sweep)
    if digests is not None:
        query = query.where(landed.c.digest.in_(digests))
    return {row.digest: (row.mark, row.number) for row in connection.execute(query)}
