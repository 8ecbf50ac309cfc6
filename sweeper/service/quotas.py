"""Quotas: how many trials and GPU-hours a user had in the last 30 days, and when some are free again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import select

from .catalog import Catalog
from .database import sweeps
from .records import Quota, moment
from .refusals import RefusedError

WINDOW_SECONDS = 30 * 86400.0


def within_quota(
    catalog: Catalog, owner: str, quota: Quota, trials: int, clock: Callable[[], float] = time.time
) -> None:
    """Refuse what a user has no quota left for.

    Args:
        catalog: The sweeps.
        owner: The user's name.
        quota: What the user may have.
        trials: What is asked for.
        clock: Seconds since 1970.

    Raises:
        RefusedError: It is more than is left (429); the sentence says what is used, and when some of it is free again.
    """
    if quota.trials is None and quota.gpu_hours is None:
        return
    since = clock() - WINDOW_SECONDS
    used, hours = catalog.used(owner, since)
    if quota.trials is not None and used + trials > quota.trials:
        frees = _frees(catalog, owner, since, sweeps.c.trials, used + trials - quota.trials)
        raise RefusedError(
            429, f"{owner} has used {used} of {quota.trials} trials in 30 days and asks for {trials} more: {frees}"
        )
    if quota.gpu_hours is not None and hours >= quota.gpu_hours:
        frees = _frees(catalog, owner, since, sweeps.c.gpu_hours, hours - quota.gpu_hours)
        raise RefusedError(429, f"{owner} has used {hours:.3g} of {quota.gpu_hours:g} GPU-hours in 30 days: {frees}")


def _frees(catalog: Catalog, owner: str, since: float, column: Any, lacking: float) -> str:
    """Return when so much of a column's sum is older than the window."""
    query = select(sweeps.c.created, column).where(sweeps.c.owner == owner, sweeps.c.created >= since)
    freed = 0.0
    with catalog.engine.connect() as connection:
        for created, amount in connection.execute(query.order_by(sweeps.c.created)):
            freed += amount
            if freed >= lacking and amount:
                when = moment(created + WINDOW_SECONDS)
                return f"enough of it is free on {when:%Y-%m-%d %H:%M} UTC"
    return "it is more than the quota"
