"""Compaction: merges the small parts of a run folder into one part per table, which is fast to read.

An interruption is safe: the large part is written before the small ones are removed, and readers count a trial in both
once (`sweeper.storage.tables.joined`). The caller must hold the folder's lock, and no trial may run.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa

from sweeper.storage.location import Place
from sweeper.storage.schema import SCHEMAS
from sweeper.storage.tables import joined, read_parts, write_table

AUTOMATIC = 100
"""Parts of a table from which a finished sweep compacts itself; fewer parts are fast to read."""
AT_ONCE = 16
"""Number of concurrent requests that remove parts from a store."""
_NAME = re.compile(r"/compacted-(\d{6})\.parquet$")


def compact(place: Place, at_least: int = 2) -> dict[str, int]:
    """Merge the parts of each table with at least `at_least` parts into one part.

    Damaged and foreign files stay unchanged.

    Returns:
        Table -> number of merged parts, for the tables that changed.

    Raises:
        NewerSchema: A newer version wrote one of the parts.
        StorageError: The folder cannot be written to; no rows are lost.
        SpecError: The store cannot be reached.
    """
    parts = {table: list(place.parts(table)) for table in SCHEMAS}
    return {t: n for t, paths in parts.items() if len(paths) >= at_least and (n := _compact_table(place, t, paths)) > 1}


def _compact_table(place: Place, table: str, paths: list[str]) -> int:
    parts = read_parts(place, paths, table)
    whole = {path: part for path, part in parts.items() if isinstance(part, pa.Table)}
    if len(whole) < 2:
        return 0
    earlier = {path: int(m[1]) for path in whole if (m := _NAME.search(path))}
    write_table(place, table, f"compacted-{max(earlier.values(), default=0) + 1:06d}", joined(whole, table))
    # older compactions first, because the parts of single trials override them
    for group in (earlier, whole.keys() - earlier.keys()):
        with ThreadPoolExecutor(1 if place.store is None else AT_ONCE) as pool:
            list(pool.map(lambda path: place.remove(f"{table}/{PurePosixPath(path).name}"), sorted(group)))
    return len(whole)
