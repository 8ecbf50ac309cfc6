"""Audit log: who did what and when, and the HTTP status of the answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Engine, delete, insert, select

from sweeper.client.models import AuditEntry, moment
from sweeper.service.db.tables import audit


class Audit:
    """The log of all requests that change something.

    Args:
        engine: The service's database.
        clock: Returns seconds since 1970.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    def write(self, user: str, action: str, target: str, detail: str, status: int) -> None:
        """Add an entry."""
        values = {"user": user[:80], "action": action[:80], "target": target[:200], "detail": detail[:2000]}
        with self.engine.begin() as connection:
            connection.execute(insert(audit).values(time=self.clock(), status=status, **values))

    def entries(self, before: int | None = None, limit: int = 100, user: str | None = None) -> list[AuditEntry]:
        """Return entries, newest first.

        Args:
            before: Only entries older than the entry with this id.
            limit: Maximum number of entries.
            user: Only entries of this user.
        """
        wanted = [audit.c.id < before] if before is not None else []
        wanted += [audit.c.user == user] if user is not None else []
        query = select(audit).where(*wanted).order_by(audit.c.id.desc()).limit(limit)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [AuditEntry(**{**row, "time": moment(row["time"])}) for row in rows]

    def prune(self, before: float) -> None:
        """Delete all entries older than a time."""
        with self.engine.begin() as connection:
            connection.execute(delete(audit).where(audit.c.time < before))
