"""Local files of trials on a node, for sweeps whose folder lies in an object store.

Training opens only files of its machine. Each node makes its start weights once, and checkpoints are copied to the
store and back. The node deletes checkpoints that the store holds.
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
"""Age from which a file counts as left by a killed process; other files are used or copied sooner."""


def on_node(runtime: Runtime, place: Place) -> Runtime:
    """Return the runtime with local folders for the trials of a store; unchanged for a mounted run folder."""
    if place.local:
        return runtime
    key = hashlib.sha256(place.uri.encode()).hexdigest()[:16]
    folder = cache_folder(runtime) / "runs" / key
    return replace(runtime, bases=str(folder / "bases"), checkpoints=str(folder / CHECKPOINTS))


@dataclass
class Checkpoints:
    """Checkpoints in a store, of trials that train together.

    Attributes:
        place: The run folder.
        folder: Folder in which the trials write them on this node.
        digest: Digest of the first trial, with which their names start.
        elsewhere: Whether other processes, perhaps on other nodes, run the trials and copy the checkpoints.
        names: Names of the checkpoints in the store.
    """

    place: Place
    folder: Path
    digest: str
    elsewhere: bool = False
    names: set[str] = field(default_factory=lambda: set[str]())

    def fetch(self) -> None:
        """Copy checkpoints from the store to this node, if they are newer than the local ones.

        Raises:
            StorageError: The store cannot be read.
        """
        stored = {name: changed for name, (_, changed) in self.place.files(CHECKPOINTS).items()}
        self.names.update(name for name in stored if name.startswith(self.digest))
        if self.elsewhere:
            return
        _remove_left(self.folder)
        for name in self.names:
            local = self.folder / name
            if not local.exists() or local.stat().st_mtime_ns < stored[name]:
                self.place.fetch(f"{CHECKPOINTS}/{name}", local)

    def keep(self, record: Mapping[str, object]) -> None:
        """Copy the checkpoint of a report to the store; ignore other reports.

        Raises:
            StorageError: The store cannot be written to.
        """
        if isinstance(text := record.get("checkpoint"), str | Path):
            path = Path(text)
            if not self.elsewhere:
                self.place.write(f"{CHECKPOINTS}/{path.name}", path.read_bytes())
                path.unlink()
            self.names.add(path.name)

    def wrap(self, run: Callable[[Report], T], report: Report) -> T:
        """Return the result of `run`, which runs the trials: fetch checkpoints, then copy those that it reports.

        Raises:
            StorageError: The store cannot be read or written to.
        """

        def keep_and_report(record: Mapping[str, object]) -> None:
            self.keep(record)
            report(record)

        self.fetch()
        result = run(keep_and_report)
        if not self.elsewhere:
            for name in self.names:
                (self.folder / name).unlink(missing_ok=True)
        return result

    def drop(self) -> None:
        """Remove the checkpoints from the store, after the rows of the trials are written.

        Raises:
            StorageError: The store cannot be written to.
        """
        for name in self.names:
            self.place.remove(f"{CHECKPOINTS}/{name}")
        self.names.clear()


def clear(place: Place, digests: Iterable[str]) -> None:
    """Remove checkpoints of finished trials, which a killed process left.

    Raises:
        StorageError: The place cannot be read or written to.
    """
    written, folder = set(digests), place.local and place.local / CHECKPOINTS
    # includes the hidden files of killed writers
    names = [p.name for p in folder.glob("*")] if folder else list(place.files(CHECKPOINTS))
    for name in names:
        if name.lstrip(".").partition(".")[0] in written:
            place.remove(f"{CHECKPOINTS}/{name}")
    if folder:
        with suppress(OSError):  # it holds other checkpoints
            folder.rmdir()


def _remove_left(folder: Path) -> None:
    for path in folder.glob("*"):
        with suppress(OSError):  # another process may remove it too
            if time.time() - path.stat().st_mtime > LEFT_SECONDS:
                path.unlink()


def checkpoints_of(place: Place, runtime: Runtime, digest: str, elsewhere: bool = False) -> Checkpoints | None:
    """Return the checkpoints of a trial in a store; None if the trial writes them to the run folder directly."""
    if place.local or runtime.checkpoints is None:
        return None
    return Checkpoints(place, Path(runtime.checkpoints), digest, elsewhere)
