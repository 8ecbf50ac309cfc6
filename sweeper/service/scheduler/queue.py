"""The queue: which waiting sweeps start now, and the position of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache

from sweeper.client.models import ACTIVE, Quota, State
from sweeper.formatting import pluralize
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError, Waiting
from sweeper.service.policy.quotas import select_startable
from sweeper.service.scheduler.fair_share import order
from sweeper.service.scheduler.ray_address import RayAddress

FRESH_SECONDS = 0.5


class Queue:
    """The waiting sweeps.

    Args:
        catalog: The sweeps.
        quota: User -> quota.
        most: Sweeps that may run at a time.
        ray: Address of the Ray cluster.
        inline: Sweeps of the inline runner that may run at a time.
    """

    def __init__(
        self, catalog: Catalog, quota: Callable[[str], Quota], most: int, ray: RayAddress, inline: int
    ) -> None:
        self.catalog, self.quota, self.most, self.ray, self.inline = catalog, quota, most, ray, inline
        self._positions: tuple[float, Mapping[str, int]] = (-math.inf, {})

    def turns(self, active: Sequence[Entry]) -> tuple[Mapping[str, str | None], Mapping[str, str]]:
        """Return the sweeps that start now, and why the next ones cannot.

        During a search for Ray, the sweeps that need it keep their places. If the search fails, other sweeps go ahead.

        Args:
            active: The running sweeps.

        Returns:
            Sweep that starts -> address of Ray, None if it does not need Ray; sweep that cannot start -> reason.
        """
        free = max(0, self.most - len(active))
        waiting = select_startable(self.catalog, self.quota, self.catalog.waiting()) if free else []
        by_ray = self.catalog.on_ray([State.QUEUED]) if waiting else set[str]()

        left = self.inline - len({e.id for e in active} - self.catalog.on_ray(ACTIVE)) if waiting else 0

        def first(sweeps: Iterable[Waiting]) -> tuple[list[str], dict[str, str]]:
            return self._first(sweeps, active, free, by_ray, left)

        chosen, held = first(waiting)
        on_ray = by_ray.intersection(chosen)
        address = self.ray.get() if on_ray else None
        if not on_ray or address is not None:
            return {sweep: address if sweep in on_ray else None for sweep in chosen}, held
        if trouble := self.ray.trouble:
            chosen, held = first(w for w in waiting if w.id not in by_ray)
            held |= dict.fromkeys(on_ray, f"waiting for Ray, trying again: {trouble}")
        return dict.fromkeys(sweep for sweep in chosen if sweep not in on_ray), held

    def explain(self, sweep: str, reason: str) -> None:
        """Store why a waiting sweep cannot start; an empty reason if it can."""
        try:
            entry = self.catalog.get(sweep)
        except UnknownSweepError:
            return  # cancelled and deleted
        if entry.state == State.QUEUED and entry.reason != reason:
            self.catalog.change(sweep, reason=reason)
            self.catalog.on_change(self.catalog.get(sweep))

    def _first(
        self, sweeps: Iterable[Waiting], active: Sequence[Entry], free: int, by_ray: Collection[str], left: int
    ) -> tuple[list[str], dict[str, str]]:
        """Return the sweeps that start next, at most `left` of them inline, and why the first other one waits."""
        chosen: list[str] = []
        held: dict[str, str] = {}
        for sweep, may in self._order(sweeps, active):
            if not may or len(chosen) == free:
                break
            if sweep not in by_ray and left < 1:
                if not held:
                    held[sweep] = (
                        f"waiting for memory: {pluralize(self.inline, 'sweep')} of runner inline may run at a time"
                    )
                continue
            left -= sweep not in by_ray
            chosen.append(sweep)
        return chosen, held

    def _order(self, waiting: Iterable[Waiting], active: Sequence[Entry]) -> Iterator[tuple[str, bool]]:
        last = self.catalog.last_starts() if waiting else {}
        return order(waiting, [e.owner for e in active], cache(self.quota), last)

    def positions(self) -> Mapping[str, int]:
        """Return waiting sweep -> its position from 1, at most half a second old."""
        when, positions = self._positions
        if time.monotonic() - when > FRESH_SECONDS:
            ordered = self._order(self.catalog.waiting(), self.catalog.in_states(ACTIVE))
            positions = {sweep: i for i, (sweep, _) in enumerate(ordered, 1)}
            self._positions = time.monotonic(), positions
        return positions
