"""The spec with which a sweep's process starts."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.client.models import Quota, SweepRecord
from sweeper.config.spec import SweepSpec
from sweeper.service.db.sweeps import Entry
from sweeper.service.policy.quotas import limit_gpu_hours
from sweeper.service.views.views import Views


def spec_to_run(
    views: Views, quota: Callable[[str], Quota], entry: Entry, address: str | None, snapshot: SweepRecord | None
) -> SweepSpec:
    """Return the spec that a process runs, with Ray's address and the GPU-hours that its owner's quota leaves.

    Args:
        views: Views of the sweeps.
        quota: User -> quota.
        entry: The sweep.
        address: Address of Ray; None if the sweep does not need it.
        snapshot: The sweep's results so far, if known.
    """
    spec = views.spec(entry)
    if address is not None:
        spec = spec.model_copy(update={"address": address})
    used = snapshot.cost.gpu_hours if snapshot else entry.gpu_hours
    limit = limit_gpu_hours(views.catalog, entry, spec.max_gpu_hours, quota(entry.owner), used)
    return spec.model_copy(update={"max_gpu_hours": limit})
