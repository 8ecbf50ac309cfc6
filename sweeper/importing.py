"""`sweeper import`: a run folder from any table of pairs, so that every command that reads one reads it."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from sweeper.analysis.text import counted, emit, wrap
from sweeper.config.spec import SpecError
from sweeper.config.yaml_source import assignments
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.location import is_uri
from sweeper.storage.retry import StorageError
from trainables.registry import unknown

DONE = 0


def import_table(args: argparse.Namespace) -> int:
    """`sweeper import TABLE --space NAME`."""
    from sweeper.storage.external.columns import pairs
    from sweeper.storage.external.sweep import as_sweep, read_table
    from sweeper.storage.run_folder import write_start
    from sweeper.storage.tables import write_trials

    path = Path(args.table).expanduser()
    if args.sampler and args.sampler not in SAMPLERS:
        raise SpecError(str(unknown("sampler", args.sampler, SAMPLERS)))
    space = str(Path(args.space).resolve()) if args.space.endswith(".py") else args.space
    mapping, settings = pairs(args.map or ()), assignments(args.set or ())
    table, faults = read_table(path)
    found = as_sweep(table, path.name, space, mapping, settings, args.sampler, args.drop_missing, faults)
    out = _folder(args.out, path)
    try:
        write_start(out, found.spec, found.space)
        write_trials(out, found.rows)
    except StorageError as error:
        raise SpecError(str(error)) from None
    outcomes = dict(Counter(str(r["outcome"]) for r in found.rows).most_common())
    record = {
        "run": str(out),
        "trials": len(found.rows),
        "configs": found.spec.trials,
        "outcomes": outcomes,
        "sampler": found.rows[0]["sampler"],
        "notes": list(found.notes),
    }
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
    head = f"{counted(len(found.rows), 'trial')} of {counted(found.spec.trials, 'configuration')} ({counts}) in {out}"
    emit(args.json, record, "\n".join([head, *(wrap(note, 0) for note in found.notes)]))
    return DONE


def _folder(asked: str | None, table: Path) -> Path:
    if asked and is_uri(asked):
        raise SpecError(f"a table is imported into a folder of this machine or one that is mounted, got {asked}")
    out = Path(asked or Path("runs") / table.stem).expanduser().absolute()
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise SpecError(f"{out} is not an empty folder; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write to {out}: {error.strerror or error}") from None
    return out
