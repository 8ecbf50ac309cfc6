"""`sweeper export`: a table as one file, the page, or the figures as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.analysis.text import counted, emit
from sweeper.cli.commands.inspect import shown_noise
from sweeper.config.spec import SpecError
from sweeper.spreadsheet import csv_bytes
from sweeper.storage.location import file_of, place_of
from sweeper.storage.retry import StorageError
from sweeper.storage.run_folder import stored_spec

if TYPE_CHECKING:
    from dashboards.data.runs import Run

DONE = 0


def export(args: argparse.Namespace) -> int:
    """`sweeper export DIR [--html FILE] [--png DIR] [--svg DIR]`, or a table where none of them is given."""
    stored_spec(args.dir)
    if not (args.html or args.png or args.svg):
        record, text = _table(args)
    else:
        if args.out or args.table or args.format:
            raise SpecError("--table, --format and --out write a table: leave them out with --html, --png and --svg")
        record, text = _drawn(args)
    emit(args.json, record, text)
    return DONE


def _table(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import pyarrow
    import pyarrow.parquet

    from sweeper.storage.tables import read, read_trials

    name, kind = args.table or "trials", args.format or "csv"
    if args.noise:
        raise SpecError("--noise chooses what --html, --png and --svg show; a table has every noise")
    table = read_trials(args.dir) if name == "trials" else read(args.dir, name)
    if kind == "csv":
        content = csv_bytes(table)
    else:
        target = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, target)
        content = target.getvalue()
    place, file = file_of(args.out) if args.out else (place_of(args.dir), f"{name}.{kind}")
    if place.local and not place.local.is_dir():
        raise SpecError(f"cannot write {args.out}: there is no folder {place.text}")
    try:
        place.write(file, content)
    except StorageError as error:
        raise SpecError(str(error)) from None
    shown = place.local / file if place.local else f"{place.text}/{file}"
    written = str(shown.absolute() if isinstance(shown, Path) else shown)
    return {"file": written, "rows": table.num_rows}, f"{table.num_rows} rows in {shown}"


def _drawn(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from dashboards.page.page import read_run, write_page

    if args.noise:
        shown_noise(args.noise)
    record: dict[str, Any] = {}
    lines: list[str] = []
    if args.html:
        try:
            page = write_page(args.dir, args.html, args.noise)
        except StorageError as error:
            raise SpecError(str(error)) from None
        except OSError as error:
            raise SpecError(f"cannot write {args.html}: {error.strerror or error}") from None
        record["page"] = str(page.absolute() if isinstance(page, Path) else page)
        lines.append(str(page))
    run = read_run(args.dir, args.noise) if args.png or args.svg else None
    for kind, folder in (("png", args.png), ("svg", args.svg)):
        if run is not None and folder:
            record[kind] = _pictures(run, Path(folder), kind)
            lines.append(f"{counted(len(record[kind]), 'figure')} in {folder}")
    return record, "\n".join(lines)


def _pictures(run: Run, folder: Path, kind: str) -> list[str]:
    from dashboards.page.images import write_pictures

    return [str(file.absolute()) for file in write_pictures(run, folder, kind)]
