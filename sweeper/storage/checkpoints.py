"""A trial's own files on the node where it runs, of a sweep whose folder lies in an object store.

Start weights are made once per node, checkpoints are written here and carried to the store and back: training opens
files of this machine only. A checkpoint that the store has does not stay here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from sweeper.storage.location import Place
from trainables.datasets.cache import cache_folder
from trainables.runtime import Report, Runtime

T = TypeVar("T")

CHECKPOINTS = "checkpoints"
LEFT_SECONDS = 86400.0
"""Age of a file that a killed process left: no other one is here for longer than until it is read or carried."""


def on_node(runtime: Runtime, place: Place) -> Runtime:
    """Return where the trials of a run folder find their files on this node; unchanged where it is mounted here."""
    if place.local:
        return runtime
    key = hashlib.sha256(place.uri.encode()).hexdigest()[:16]
    folder = cache_folder(runtime) / "runs" / key
    return replace(runtime, bases=str(folder / "bases"), checkpoints=str(folder / CHECKPOINTS))


@dataclass
class Checkpoints:
    """Checkpoints of trials that train together, in a store.

    Attributes:
        place: The run folder.
        folder: Where the trials write them on this node.
        digest: Digest of the first of the trials: their names begin with it.
        elsewhere: Whether other processes run the trials, perhaps on other nodes, and carry the checkpoints.
        names: Those that are in the store.
    """

    place: Place
    folder: Path
    digest: str
    elsewhere: bool = False
    names: set[str] = field(default_factory=lambda: set[str]())

    def fetch(self) -> None:
        """Bring those here that another node has written, or this one before it lost its files.

        Raises:
            StorageError: The store cannot be read.
        """
        there = {name: changed for name, (_, changed) in self.place.files(CHECKPOINTS).items()}
        self.names.update(name for name in there if name.startswith(self.digest))
        if self.elsewhere:
            return
        _remove_left(self.folder)
        for name in self.names:
            mine = self.folder / name
            if not mine.exists() or mine.stat().st_mtime_ns < there[name]:
                self.place.fetch(f"{CHECKPOINTS}/{name}", mine)

    def keep(self, record: Mapping[str, object]) -> None:
        """Carry the checkpoint to the store that a trial reports; other reports are passed over.

        Raises:
            StorageError: The store cannot be written to.
        """
        if isinstance(text := record.get("checkpoint"), str | Path):
            path = Path(text)
            if not self.elsewhere:
                self.place.write(f"{CHECKPOINTS}/{path.name}", path.read_bytes())
                path.unlink()
            self.names.add(path.name)

    def around(self, run: Callable[[Report], T], report: Report) -> T:
        """Return what `run` returns, which runs the trials with the report that it is given.

        Raises:
            StorageError: The store cannot be read or written to.
        """

        def kept(record: Mapping[str, object]) -> None:
            self.keep(record)
            report(record)

        self.fetch()
        found = run(kept)
        if not self.elsewhere:
            for name in self.names:
                (self.folder / name).unlink(missing_ok=True)
        return found

    def drop(self) -> None:
        """Remove them from the store: the trials are written.

        Raises:
            StorageError: The store cannot be written to.
        """
        for name in self.names:
            self.place.remove(f"{CHECKPOINTS}/{name}")
        self.names.clear()


def clear(place: Place, digests: Iterable[str]) -> None:
    """Remove what is left of checkpoints of trials that are written: their process died before it could.

    Raises:
        StorageError: The place cannot be read or written to.
    """
    written, folder = set(digests), place.local and place.local / CHECKPOINTS
    # of a killed writer, too, whose files are hidden
    names = [p.name for p in folder.glob("*")] if folder else list(place.files(CHECKPOINTS))
    for name in names:
        if name.lstrip(".").partition(".")[0] in written:
            place.remove(f"{CHECKPOINTS}/{name}")
    if folder:
        with suppress(OSError):  # others are still needed
            folder.rmdir()


def _remove_left(folder: Path) -> None:
    for path in folder.glob("*"):
        with suppress(OSError):  # another process removes it, too
            if time.time() - path.stat().st_mtime > LEFT_SECONDS:
                path.unlink()


def checkpoints_of(place: Place, runtime: Runtime, digest: str, elsewhere: bool = False) -> Checkpoints | None:
    """Return the checkpoints that have to be carried; None where the trial writes them to the run folder itself."""
    if place.local or runtime.checkpoints is None:
        return None
    return Checkpoints(place, Path(runtime.checkpoints), digest, elsewhere)
