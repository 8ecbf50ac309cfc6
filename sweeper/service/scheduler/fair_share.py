"""Whose sweep starts next: priorities of admins, then the user with the fewest running ones, then the longest wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any

from sweeper.client.models import Quota
from sweeper.service.db.sweeps import Waiting


def order(
    waiting: Iterable[Waiting],
    running: Iterable[str],
    quota: Callable[[str], Quota] = lambda _: Quota(),
    last: Mapping[str, float] | None = None,
) -> Iterator[tuple[str, bool]]:
    """Yield the waiting sweeps in the order in which they are to start.

    A sweep of a priority above 0, which admins give, goes ahead of all; between users the one with the fewest running
    sweeps comes first, then the one whose last start is longest ago; of one user's the highest priority, then the
    longest wait.

    Args:
        waiting: Sweeps that wait.
        running: Owner of each sweep that runs.
        quota: User -> what it may have.
        last: User -> time of its last start.

    Yields:
        Id of a sweep, and whether its owner's quota lets it start beside those that run and that came before it.
    """
    counts, starts, own = Counter(running), dict(last or {}), dict[str, list[Waiting]]()
    for sweep in sorted(waiting, key=_own_order, reverse=True):
        own.setdefault(sweep.owner, []).append(sweep)  # who is next comes last
    now = max([*starts.values(), *(s.queued for sent in own.values() for s in sent)], default=0.0)
    most = {user: quota(user).running for user in own}

    def place(user: str) -> tuple[Any, ...]:
        sweep = own[user][-1]
        return -max(0, sweep.priority), counts[user], starts.get(user, 0.0), *_own_order(sweep), user

    def may(user: str) -> bool:
        bound = most[user]
        return bool(own[user]) and (bound is None or counts[user] < bound)

    # of users only the one whose sweep is chosen gets another place
    heap = [place(user) for user in own if may(user)]
    heapify(heap)
    while heap:
        user = heappop(heap)[-1]
        now += 1.0
        counts[user] += 1
        starts[user] = now
        yield own[user].pop().id, True
        if may(user):
            heappush(heap, place(user))
    for held in sorted((s for sent in own.values() for s in sent), key=_own_order):
        yield held.id, False


def _own_order(sweep: Waiting) -> tuple[int, float, str]:
    """Return what the sweeps of one user are ordered by."""
    return -sweep.priority, sweep.queued, sweep.id
