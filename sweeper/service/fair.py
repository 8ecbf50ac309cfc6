"""Whose sweep starts next: priorities of admins, then the user with the fewest running ones, then the longest wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from .records import Quota


class Waiting(NamedTuple):
    """A sweep that waits since `queued` [s]; see `order`."""

    id: str
    owner: str
    priority: int
    queued: float


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
    counts, starts, left = Counter(running), dict(last or {}), list(waiting)
    now = max([*starts.values(), *(s.queued for s in left)], default=0.0)
    while left:
        free = [s for s in left if (most := quota(s.owner).running) is None or counts[s.owner] < most]
        if not free:
            break
        chosen = min(
            free,
            key=lambda s: (
                -max(0, s.priority), counts[s.owner], starts.get(s.owner, 0.0), -s.priority, s.queued, s.id,
            ),
        )  # fmt: skip
        left.remove(chosen)
        now += 1.0
        counts[chosen.owner] += 1
        starts[chosen.owner] = now
        yield chosen.id, True
    for held in sorted(left, key=lambda s: (-s.priority, s.queued, s.id)):
        yield held.id, False
