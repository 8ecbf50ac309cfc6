"""A table of a run folder that grows: parts that were read are kept, only new ones are opened."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from sweeper.storage.location import Place, Stamp
from sweeper.storage.schema import GONE, SCHEMAS
from sweeper.storage.tables import joined, read_parts


@dataclass
class GrowingTable:
    """One table of one folder, as far as it was read.

    Attributes:
        name: Name in `SCHEMAS`.
        stamps: Part -> its stamp when it was read.
        skipped: Part that could not be read -> why.
        rows: What was read.
        changes: Number of looks that found anything.
    """

    name: str
    stamps: dict[str, Stamp] = field(default_factory=lambda: {})
    skipped: dict[str, str] = field(default_factory=lambda: {})
    rows: pa.Table = field(init=False)
    changes: int = 0

    def __post_init__(self) -> None:
        self.rows = SCHEMAS[self.name].empty_table()

    def refresh(self, place: Place) -> bool:
        """Read what is new; returns whether anything is. A part that changed or went makes all be read again."""
        found = place.parts(self.name)
        if found == self.stamps:
            return False
        whole = self.stamps.keys() - self.skipped.keys()
        if any(found.get(path) != self.stamps[path] for path in whole):
            self.stamps, self.skipped, self.rows = {}, {}, SCHEMAS[self.name].empty_table()
        new = [path for path, stamp in found.items() if self.stamps.get(path) != stamp]
        read = read_parts(place, new, self.name)
        gone = {path for path, part in read.items() if isinstance(part, str) and part == GONE}
        self.skipped = {path: why for path, why in self.skipped.items() if path in found and path not in read}
        self.skipped |= {path: p for path, p in read.items() if isinstance(p, str) and path not in gone}
        tables = {path: part for path, part in read.items() if isinstance(part, pa.Table)}
        if tables:
            # what was read before is the first of those with many trials
            self.rows = joined({"": self.rows, **tables}, self.name)
        # of what went away while it was read the next look finds where it is now
        self.stamps = {path: stamp for path, stamp in found.items() if path not in gone}
        self.changes += 1
        return True
