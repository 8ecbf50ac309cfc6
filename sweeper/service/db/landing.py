"""The order in which a sweep's trials landed, and their charge to its owner. New trials never shift earlier pages."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection, Engine, case, delete, func, insert, select, update

from sweeper.analysis.trial_counts import count_gpus
from sweeper.config.resources import Resources
from sweeper.service.db.sweeps import UnknownSweepError
from sweeper.service.db.tables import DAY_SECONDS, landed, sweeps, usage

CHUNK = 500
_COLUMNS = ("digest", "outcome", "started", "device", "device_seconds", "members")


class Landing:
    """Numbers of one sweep's trials, from 1 in the order in which the service saw them, stored in its database.

    A failed trial that runs again gets a new number, so readers see it again. The transaction that stores a number also
    charges one trial and its GPU time to the sweep's owner.

    Args:
        engine: The database.
        sweep: Id of the sweep.
        resources: Resources that its trials hold.
        clock: Returns seconds since 1970.
    """

    def __init__(
        self, engine: Engine, sweep: str, resources: Resources, clock: Callable[[], float] = time.time
    ) -> None:
        self.engine, self.sweep, self.resources, self.clock = engine, sweep, resources, clock
        self._lock = threading.Lock()
        with engine.connect() as connection:
            stored = _read_landed(connection, sweep)
        self.marks = {digest: mark for digest, (mark, _) in stored.items()}
        self.numbers = {digest: number for digest, (_, number) in stored.items()}

    def take(self, trials: pa.Table) -> list[int]:
        """Number the new trials: all of them, or none if the database fails.

        Returns:
            Positions of the new rows in `trials`, in the order of their numbers.

        Raises:
            UnknownSweepError: The sweep was deleted.
            SQLAlchemyError: The database failed; the next call takes the same trials.
        """
        rows = trials.select(_COLUMNS).to_pylist()
        marks = {row["digest"]: f"{row['outcome']} {row['started']}"[:80] for row in rows}
        with self._lock:
            new = [i for i, row in enumerate(rows) if self.marks.get(row["digest"]) != marks[row["digest"]]]
            if not new:
                return []
            new.sort(key=lambda i: (str(rows[i]["started"]), i))
            with self.engine.begin() as connection:
                owner = self._lock_sweep(connection)
                # another reader of this sweep may have been quicker
                numbers, last = self._stored_numbers(connection, [rows[i]["digest"] for i in new], marks)
                new = [i for i in new if rows[i]["digest"] not in numbers]
                fresh = {rows[i]["digest"]: last + n for n, i in enumerate(new, 1)}
                self._store(connection, fresh, marks)
                if new:
                    self._charge(connection, owner, [rows[i] for i in new])
            numbers |= fresh
            self.numbers |= numbers
            self.marks |= {digest: marks[digest] for digest in numbers}
        return new

    def _lock_sweep(self, connection: Connection) -> str:
        """Lock the sweep's row until the transaction ends; returns its owner."""
        this = sweeps.c.id == self.sweep
        if connection.execute(update(sweeps).where(this).values(due=sweeps.c.due)).rowcount != 1:
            raise UnknownSweepError.of(self.sweep)
        return connection.execute(select(sweeps.c.owner).where(this)).scalar_one()

    def _stored_numbers(
        self, connection: Connection, digests: Sequence[str], marks: Mapping[str, str]
    ) -> tuple[dict[str, int], int]:
        """Return the numbers that trials already have in the database, and the sweep's last number."""
        last = select(func.coalesce(func.max(landed.c.number), 0)).where(landed.c.sweep == self.sweep)
        numbers: dict[str, int] = {}
        for start in range(0, len(digests), CHUNK):
            stored = _read_landed(connection, self.sweep, digests[start : start + CHUNK])
            numbers |= {digest: number for digest, (mark, number) in stored.items() if mark == marks[digest]}
        return numbers, connection.execute(last).scalar_one()

    def _store(self, connection: Connection, numbers: Mapping[str, int], marks: Mapping[str, str]) -> None:
        digests = list(numbers)
        for start in range(0, len(digests), CHUNK):
            chunk = digests[start : start + CHUNK]
            rows = [{"sweep": self.sweep, "digest": d, "number": numbers[d], "mark": marks[d]} for d in chunk]
            connection.execute(delete(landed).where(landed.c.sweep == self.sweep, landed.c.digest.in_(chunk)))
            connection.execute(insert(landed), rows)

    def _charge(self, connection: Connection, owner: str, rows: Sequence[Mapping[str, Any]]) -> None:
        seconds = [row["device_seconds"] or 0.0 for row in rows]
        gpu_seconds = math.fsum(
            count_gpus(row, self.resources) * s for row, s in zip(rows, seconds, strict=True) if math.isfinite(s)
        )
        row = {"sweep": self.sweep, "day": int(self.clock() // DAY_SECONDS)}
        this_day = [usage.c[name] == value for name, value in row.items()]
        sums = {"trials": usage.c.trials + len(rows), "gpu_seconds": usage.c.gpu_seconds + gpu_seconds}
        if not connection.execute(update(usage).where(*this_day).values(**sums)).rowcount:
            connection.execute(insert(usage).values(**row, user=owner, trials=len(rows), gpu_seconds=gpu_seconds))
        left = {
            name: case((sweeps.c[name] > used, sweeps.c[name] - used), else_=0)
            for name, used in (("due", len(rows)), ("due_gpu_seconds", gpu_seconds))
        }
        connection.execute(update(sweeps).where(sweeps.c.id == self.sweep).values(**left))


def _read_landed(
    connection: Connection, sweep: str, digests: Sequence[str] | None = None
) -> dict[str, tuple[str, int]]:
    """Return digest -> mark and number of a sweep's landed trials, or of those among `digests`."""
    query = select(landed.c.digest, landed.c.mark, landed.c.number).where(landed.c.sweep == sweep)
    if digests is not None:
        query = query.where(landed.c.digest.in_(digests))
    return {row.digest: (row.mark, row.number) for row in connection.execute(query)}
