"""`sweeper compact`: the small files of finished sweeps become one per table."""

from __future__ import annotations

import argparse

from sweeper.analysis.text import emit

DONE = 0


def compact(args: argparse.Namespace) -> int:
    """`sweeper compact DIR`."""
    from sweeper.storage.compaction import compact as compacted
    from sweeper.storage.location import place_of
    from sweeper.storage.run_folder import locked, stored_spec

    stored_spec(args.dir)
    place = place_of(args.dir)
    with locked(place):
        found = compacted(place.patient())
    lines = [f"{table:<9}{count} parts became one" for table, count in found.items()]
    emit(args.json, {"run": place.uri, "parts": found}, "\n".join(lines) or "nothing to do: no table has several parts")
    return DONE
