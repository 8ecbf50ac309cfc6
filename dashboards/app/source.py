"""Interface of a service for the app: the sweeps that the current user may see."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from dashboards.data.folders import Folder
from sweeper.client.models import Sweep

OPEN = 64


class SweepSource(Protocol):
    """The sweeps of a service. Each method answers for the user of the current request."""

    events: str
    """URL of the server-sent events on changes."""

    def user(self) -> str:
        """Return the user's name for the page's head; empty if the service needs no sign-in."""
        ...

    def place(self, sweep: str) -> str | None:
        """Return the path or URI of a sweep; None if it does not exist or the user may not see it."""
        ...

    def redact(self, text: str) -> str:
        """Return a message without the server's folders."""
        ...

    def find(self, sweep: str) -> Sweep | None:
        """Return one sweep; None as for `place`."""
        ...

    def list_sweeps(self, states: Sequence[str], owner: str, before: str, limit: int) -> Sequence[Sweep]:
        """Return the newest sweeps.

        Args:
            states: Only sweeps in these states; empty for all.
            owner: Only sweeps of this user; empty for all.
            before: Only sweeps older than this one; an empty or unknown id takes all.
            limit: Maximum number of sweeps.
        """
        ...

    def owners(self) -> Sequence[str]:
        """Return the owners of the visible sweeps."""
        ...

    def names(self) -> Mapping[str, str]:
        """Return id -> label of the newest sweeps, newest first."""
        ...


class SourceFolders(Mapping[str, Folder]):
    """Folders of the sweeps that the current user may see; the last opened ones stay open.

    Args:
        source: The service.
    """

    def __init__(self, source: SweepSource) -> None:
        self._source = source
        self._open: OrderedDict[str, Folder] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, sweep: str) -> Folder:
        # check each time: someone may delete a sweep or stop sharing it
        place = self._source.place(sweep)
        if place is None:
            raise KeyError(sweep)
        with self._lock:
            folder = self._open.pop(place, None) or Folder(place, redact=self._source.redact)
            self._open[place] = folder
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        return folder

    def __contains__(self, sweep: object) -> bool:
        return isinstance(sweep, str) and self._source.place(sweep) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.names())

    def __len__(self) -> int:
        return len(self._source.names())
