"""A trial's own files on the node where it runs, of a sweep whose folder lies in an object store.

Start weights are made once per node, checkpoints are written here and carried to the store and back: training opens
files of this machine only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainables.files import cache_folder
from trainables.runtime import Runtime

from .places import Place

CHECKPOINTS = "checkpoints"


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
        names: Those that are in the store.
    """

    place: Place
    folder: Path
    digest: str
    names: set[str] = field(default_factory=lambda: set[str]())

    def fetch(self) -> None:
        """Bring those here that another node has written, or this one before it lost its files.

        Raises:
            StorageError: The store cannot be read.
        """
        for name, (_, changed) in self.place.files(CHECKPOINTS).items():
            if not name.startswith(self.digest):
                continue
            self.names.add(name)
            mine = self.folder / name
            if not mine.exists() or mine.stat().st_mtime_ns < changed:
                self.place.fetch(f"{CHECKPOINTS}/{name}", mine)

    def keep(self, record: Mapping[str, object]) -> None:
        """Carry the checkpoint to the store that a trial reports; other reports are passed over.

        Raises:
            StorageError: The store cannot be written to.
        """
        if isinstance(path := record.get("checkpoint"), str | Path):
            self.place.write(f"{CHECKPOINTS}/{Path(path).name}", Path(path).read_bytes())
            self.names.add(Path(path).name)

    def drop(self) -> None:
        """Remove them: the trials are written.

        Raises:
            StorageError: The store cannot be written to.
        """
        for name in self.names:
            self.place.remove(f"{CHECKPOINTS}/{name}")
            (self.folder / name).unlink(missing_ok=True)
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


def checkpoints_of(place: Place, runtime: Runtime, digest: str) -> Checkpoints | None:
    """Return the checkpoints that have to be carried; None where the trial writes them to the run folder itself."""
    if place.local or runtime.checkpoints is None:
        return None
    return Checkpoints(place, Path(runtime.checkpoints), digest)
