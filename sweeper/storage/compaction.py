"""Compaction: the many small parts of a run folder become one per table, so that it is read in a second.

Safe at every moment: the large part is written before the small ones are removed, and readers count a trial that
stands in both once (`store.joined`). Only for the holder of the folder's lock,
while no trial runs.
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
"""A finished sweep compacts itself from so many parts of a table on: fewer are read as fast as one."""
AT_ONCE = 16
"""Parts that are removed from a store at a time: each is a request."""
_NAME = re.compile(r"/compacted-(\d{6})\.parquet$")


def compact(place: Place, at_least: int = 2) -> dict[str, int]:
    """Make one part of each table that has at least so many.

    Files that are corrupt or foreign stay as they are.

    Returns:
        Table -> how many parts became one; those that were left as they are do not stand there.

    Raises:
        NewerSchema: A newer version wrote one of the parts.
        StorageError: The folder cannot be written to; nothing is lost.
        SpecError: The store cannot be reached.
    """
    found = {table: list(place.parts(table)) for table in SCHEMAS}
    return {t: n for t, paths in found.items() if len(paths) >= at_least and (n := _one(place, t, paths)) > 1}


def _one(place: Place, table: str, paths: list[str]) -> int:
    found = read_parts(place, paths, table)
    whole = {path: part for path, part in found.items() if isinstance(part, pa.Table)}
    if len(whole) < 2:
        return 0
    earlier = {path: int(m[1]) for path in whole if (m := _NAME.search(path))}
    write_table(place, table, f"compacted-{max(earlier.values(), default=0) + 1:06d}", joined(whole, table))
    # while a part of an older compaction is there, so are the own parts that go before it
    for group in (earlier, whole.keys() - earlier.keys()):
        with ThreadPoolExecutor(1 if place.store is None else AT_ONCE) as pool:
            list(pool.map(lambda path: place.remove(f"{table}/{PurePosixPath(path).name}"), sorted(group)))
    return len(whole)
