"""The order in which a sweep's trials landed: pages of it stay right while more of them come."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine, delete, insert, select

from .database import landed

CHUNK = 500


class Landing:
    """Numbers of the trials of one sweep, from 1 in the order in which the service saw them; kept in its database.

    A trial that is run again, because it had failed, gets a new number: a reader who has seen it sees it again.

    Args:
        engine: The database.
        sweep: Id of the sweep.
    """

    def __init__(self, engine: Engine, sweep: str) -> None:
        self.engine, self.sweep = engine, sweep
        self._lock = threading.Lock()
        query = select(landed.c.digest, landed.c.mark, landed.c.number).where(landed.c.sweep == sweep)
        with engine.connect() as connection:
            found = connection.execute(query).all()
        self.marks = {row.digest: row.mark for row in found}
        self.numbers = {row.digest: row.number for row in found}
        self.last = max(self.numbers.values(), default=0)

    def take(self, trials: pa.Table) -> list[int]:
        """Number the trials that are new.

        Returns:
            Positions of the new rows in `trials`, in the order of their numbers.
        """
        rows = trials.select(["digest", "outcome", "started"]).to_pylist()
        marks = {row["digest"]: f"{row['outcome']} {row['started']}"[:80] for row in rows}
        with self._lock:
            new = [i for i, row in enumerate(rows) if self.marks.get(row["digest"]) != marks[row["digest"]]]
            new.sort(key=lambda i: (str(rows[i]["started"]), i))
            found: list[dict[str, Any]] = []
            for i in new:
                digest = rows[i]["digest"]
                self.last += 1
                self.marks[digest], self.numbers[digest] = marks[digest], self.last
                found.append({"sweep": self.sweep, "digest": digest, "number": self.last, "mark": marks[digest]})
            self._store(found)
        return new

    def _store(self, found: Sequence[Mapping[str, Any]]) -> None:
        for start in range(0, len(found), CHUNK):
            some = found[start : start + CHUNK]
            digests = [row["digest"] for row in some]
            with self.engine.begin() as connection:
                connection.execute(delete(landed).where(landed.c.sweep == self.sweep, landed.c.digest.in_(digests)))
                connection.execute(insert(landed), [dict(row) for row in some])
