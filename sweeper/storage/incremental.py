"""Growing tables of a run folder: each part is read once, and a refresh opens new parts only."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from sweeper.storage.location import Place, Stamp
from sweeper.storage.schema import GONE, SCHEMAS
from sweeper.storage.tables import joined, read_parts


@dataclass
class IncrementalTable:
    """One table of one folder, as read so far.

    Attributes:
        name: Name in `SCHEMAS`.
        stamps: Part -> its stamp at the time of reading.
        skipped: Unreadable part -> the reason.
        rows: Rows of all readable parts.
        changes: Number of refreshes with changes.
    """

    name: str
    stamps: dict[str, Stamp] = field(default_factory=lambda: {})
    skipped: dict[str, str] = field(default_factory=lambda: {})
    rows: pa.Table = field(init=False)
    changes: int = 0

    def __post_init__(self) -> None:
        self.rows = SCHEMAS[self.name].empty_table()

    def refresh(self, place: Place) -> bool:
        """Read new parts and return whether anything changed; read all parts again if one changed or vanished."""
        parts = place.parts(self.name)
        if parts == self.stamps:
            return False
        whole = self.stamps.keys() - self.skipped.keys()
        if any(parts.get(path) != self.stamps[path] for path in whole):
            self.stamps, self.skipped, self.rows = {}, {}, SCHEMAS[self.name].empty_table()
        new = [path for path, stamp in parts.items() if self.stamps.get(path) != stamp]
        read = read_parts(place, new, self.name)
        gone = {path for path, part in read.items() if isinstance(part, str) and part == GONE}
        self.skipped = {path: why for path, why in self.skipped.items() if path in parts and path not in read}
        self.skipped |= {path: p for path, p in read.items() if isinstance(p, str) and path not in gone}
        tables = {path: part for path, part in read.items() if isinstance(part, pa.Table)}
        if tables:
            # the rows so far come first
            self.rows = joined({"": self.rows, **tables}, self.name)
        # the next refresh finds the rows of parts that vanished in between
        self.stamps = {path: stamp for path, stamp in parts.items() if path not in gone}
        self.changes += 1
        return True
