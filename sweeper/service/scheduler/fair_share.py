"""Fair share: the order in which waiting sweeps start, by priority, running sweeps per user, and waiting time."""

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
    """Yield the waiting sweeps in the order in which they should start.

    A priority above 0, which only admins give, goes first. Between users, fewest running sweeps go first, then the
    earliest last start. Among one user's sweeps, the highest priority goes first, then the longest wait.

    Args:
        waiting: The waiting sweeps.
        running: Owner of each running sweep.
        quota: User -> quota.
        last: User -> time of the last start.

    Yields:
        Id of a sweep, and whether its owner's quota lets it start beside the running and the earlier sweeps.
    """
    counts, starts, by_user = Counter(running), dict(last or {}), dict[str, list[Waiting]]()
    for sweep in sorted(waiting, key=_user_order, reverse=True):
        by_user.setdefault(sweep.owner, []).append(sweep)  # the next one is last
    now = max([*starts.values(), *(s.queued for sent in by_user.values() for s in sent)], default=0.0)
    limits = {user: quota(user).running for user in by_user}

    def place(user: str) -> tuple[Any, ...]:
        sweep = by_user[user][-1]
        return -max(0, sweep.priority), counts[user], starts.get(user, 0.0), *_user_order(sweep), user

    def may_start(user: str) -> bool:
        limit = limits[user]
        return bool(by_user[user]) and (limit is None or counts[user] < limit)

    # each choice changes the place of the chosen user only
    heap = [place(user) for user in by_user if may_start(user)]
    heapify(heap)
    while heap:
        user = heappop(heap)[-1]
        now += 1.0
        counts[user] += 1
        starts[user] = now
        yield by_user[user].pop().id, True
        if may_start(user):
            heappush(heap, place(user))
    for held in sorted((s for sent in by_user.values() for s in sent), key=_user_order):
        yield held.id, False


def _user_order(sweep: Waiting) -> tuple[int, float, str]:
    """Return the sort key of one user's sweeps."""
    return -sweep.priority, sweep.queued, sweep.id
