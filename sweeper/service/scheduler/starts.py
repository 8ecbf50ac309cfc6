"""What a sweep's process starts with."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.client.models import Quota
from sweeper.config.spec import SweepSpec
from sweeper.service.db.sweeps import Entry
from sweeper.service.policy.quotas import limit_gpu_hours
from sweeper.service.views.reader import Found
from sweeper.service.views.views import Views


def spec_to_run(
    views: Views, quota: Callable[[str], Quota], entry: Entry, address: str | None, found: Found | None
) -> SweepSpec:
    """Return the spec that a process runs: at an address of Ray, within what its owner's quota leaves it.

    Args:
        views: Of the sweeps.
        quota: User -> what it may have.
        entry: The sweep.
        address: Of Ray; None where it needs none.
        found: What the sweep has found by now, if known.
    """
    spec = views.spec(entry)
    if address is not None:
        spec = spec.model_copy(update={"address": address})
    own = found.cost.gpu_hours if found else entry.gpu_hours
    most = limit_gpu_hours(views.catalog, entry, spec.max_gpu_hours, quota(entry.owner), own)
    return spec.model_copy(update={"max_gpu_hours": most})
