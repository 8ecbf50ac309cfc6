"""What a service offers to the app: the sweeps that whoever asks may see, which change while the app runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dashboards.data.folders import Folder

OPEN = 64


@dataclass(frozen=True)
class Listed:
    """A sweep in the list.

    Attributes:
        id: What the address calls it.
        name: What its owner calls it.
        owner: Who sent it.
        space: Its search space.
        shared: Whether all users may see it.
        state: `queued`, `starting`, `running`, `stopping`, `done`, `failed`, `cancelled` or `interrupted`.
        reason: Why it is in this state.
        position: Place in the queue, from 1; None where it does not wait.
        created: When it was sent, with its time zone.
        ended: When it ended.
        budget: Configurations that it may try.
        done: Configurations that have a result, without the failed ones.
        failed: Configurations that failed.
        noise: The best noise found so far.
        low: Lower end of its interval.
        high: Upper end of its interval.
        unit: Of the noise.
        objective: What is made best, with its unit.
        best: The objective's best mean over a configuration's repeats.
    """

    id: str
    name: str
    owner: str
    space: str
    shared: bool
    state: str
    reason: str
    position: int | None
    created: datetime
    ended: datetime | None
    budget: int
    done: int
    failed: int
    noise: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    objective: str = ""
    best: float | None = None


class Offer(Protocol):
    """The sweeps of a service. Each method answers for whoever sent the request in whose context it is called."""

    events: str
    """Address of the server-sent events that tell of changes."""

    def asker(self) -> str:
        """Return the name of who asks, for the page's head; empty where nobody has to sign in."""
        ...

    def place(self, sweep: str) -> str | None:
        """Return the path or URI of a sweep; None where there is none, or it may not be seen."""
        ...

    def outward(self, text: str) -> str:
        """Return a message as others may read it: without folders of the server."""
        ...

    def find(self, sweep: str) -> Listed | None:
        """Return one sweep; None as for `place`."""
        ...

    def listed(self, states: Sequence[str], owner: str, before: str, limit: int) -> Sequence[Listed]:
        """Return the newest sweeps.

        Args:
            states: Only those in one of these states; empty for all.
            owner: Only those of this user; empty for all.
            before: Only those older than this one; empty for all, as is an unknown one.
            limit: At most so many.
        """
        ...

    def owners(self) -> Sequence[str]:
        """Return whose sweeps there are to see."""
        ...

    def names(self) -> Mapping[str, str]:
        """Return id -> words for people of the newest sweeps, the newest first."""
        ...


class OfferedFolders(Mapping[str, Folder]):
    """The folders of the sweeps that whoever asks may see; those that were opened last stay open.

    Args:
        offer: The sweeps.
    """

    def __init__(self, offer: Offer) -> None:
        self._offer = offer
        self._open: OrderedDict[str, Folder] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, sweep: str) -> Folder:
        # asked each time: a sweep may be deleted, or no longer be shared
        place = self._offer.place(sweep)
        if place is None:
            raise KeyError(sweep)
        with self._lock:
            folder = self._open.pop(place, None) or Folder(place, outward=self._offer.outward)
            self._open[place] = folder
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        return folder

    def __contains__(self, sweep: object) -> bool:
        return isinstance(sweep, str) and self._offer.place(sweep) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._offer.names())

    def __len__(self) -> int:
        return len(self._offer.names())
