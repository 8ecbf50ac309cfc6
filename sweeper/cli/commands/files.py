"""Commands for files: `export`, `import` and `compact`."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sweeper.analysis.summary import check_shown_noise, find_space
from sweeper.cli.options import COMMON, RUN_DIR, SHOWN_NOISE, samplers, spaces
from sweeper.cli.output import emit
from sweeper.cli.parsing import Argument, Arguments, Choice, Option, command
from sweeper.errors import ExitCode, SpecError, StorageError
from sweeper.formatting import csv_bytes, pluralize, show_path
from sweeper.storage.location import file_of, place_of
from sweeper.storage.run_folder import stored_spec

if TYPE_CHECKING:
    from dashboards.data.runs import Run
    from sweeper.config.spec import SweepSpec
from collections import Counter

from sweeper.config.yaml_source import parse_assignments
from sweeper.formatting import wrap
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.location import is_uri
from trainables.registry import unknown

_TABLES = ("trials", "merges", "history", "planes", "search")
_EXPORT = (
    Option("--format", "csv|parquet|optuna|tensorboard", "A table as csv or parquet; all trials as an Optuna study in "
           "an SQLite file, or for TensorBoard (default: csv).",
           type=Choice(("csv", "parquet", "optuna", "tensorboard"))),
    Option("--table", "NAME", f"{', '.join(_TABLES[:-1])} or {_TABLES[-1]} (default: trials).", type=Choice(_TABLES)),
    Option("--out", "FILE", "File of the table (default: DIR/TABLE.FORMAT) or of the study (default: DIR/study.db); "
           "folder for TensorBoard (default: DIR/tensorboard)."),
    Option("--html", "FILE", "Write the page instead, as one file that works offline."),
    Option("--png", "DIR", "Write the page's figures instead, as PNG files."),
    Option("--svg", "DIR", "Write the page's figures instead, as SVG files."),
)  # fmt: skip
_TABLE = Argument("table", "TABLE", "Table with one row per pair: .parquet, .csv, .feather or .arrow.")
_IMPORT = (
    Option("--space", "NAME", "Space or space file of the pairs.", required=True, names=spaces),
    Option("--map", "COLUMN=NAME,...", "Column of the table and of trials, such as lr=learning_rate. Equal names need "
           "no entry; COLUMN= omits a column; repeatable.", multiple=True),
    Option("--set", "KEY=VALUE", "Value that all rows share: a field of the trial, examples, classes or parameters; "
           "repeatable.", multiple=True),
    Option("--sampler", "NAME", "Sampler that chose the configurations (default: grid for a grid, else unknown).",
           names=samplers),
    Option("--drop-missing", "", "Omit unusable rows.", default=False),
    Option("--out", "DIR", "Run folder (default: runs/NAME_OF_THE_TABLE)."),
)  # fmt: skip


@command(RUN_DIR, _EXPORT, SHOWN_NOISE, COMMON)
def export(args: Arguments) -> int:
    """`sweeper export DIR`: a table, or the page and figures with --html, --png and --svg."""
    spec = stored_spec(args.dir)
    if args.format in _FOR_OTHERS and not (args.html or args.png or args.svg):
        if args.table or args.noise:
            flag = "--table is for csv and parquet" if args.table else "--noise is for --html, --png and --svg"
            raise SpecError(f"{flag}; --format {args.format} writes all trials")
        record, text = _FOR_OTHERS[args.format](args, spec)
    elif not (args.html or args.png or args.svg):
        record, text = _write_table(args)
    else:
        if args.out or args.table or args.format:
            raise SpecError("--table, --format and --out are for a table: omit them with --html, --png and --svg")
        record, text = _write_figures(args)
    emit(args.json, record, text)
    return ExitCode.DONE


def _write_table(args: Arguments) -> tuple[dict[str, Any], str]:
    import pyarrow
    import pyarrow.parquet

    from sweeper.storage.tables import read, read_trials

    name, kind = args.table or "trials", args.format or "csv"
    _check_suffix(args.out, kind)
    if args.noise:
        raise SpecError("--noise works with --html, --png and --svg only; a table has every noise")
    table = read_trials(args.dir) if name == "trials" else read(args.dir, name)
    if kind == "csv":
        content = csv_bytes(table)
    else:
        target = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(table, target)
        content = target.getvalue()
    place, file = file_of(args.out) if args.out else (place_of(args.dir), f"{name}.{kind}")
    if place.local and not place.local.is_dir():
        raise SpecError(f"cannot write {args.out}: the folder {place.text} does not exist")
    try:
        place.write(file, content)
    except StorageError as error:
        raise SpecError(str(error)) from None
    shown = place.local / file if place.local else f"{place.text}/{file}"
    written = str(shown.absolute() if isinstance(shown, Path) else shown)
    return {"file": written, "rows": table.num_rows}, f"{pluralize(table.num_rows, 'row')} in {shown}"


def _check_suffix(out: str | None, kind: str) -> None:
    suffix = PurePath(out or "").suffix[1:].lower()
    if suffix in ("html", "png", "svg"):
        raise SpecError(f"--out is for a table, got {out}: use --{suffix} {'DIR' if suffix != 'html' else out}")
    if suffix in ("csv", "parquet") and suffix != kind:
        raise SpecError(f"--out {out} holds {kind}: add --format {suffix}, or name a .{kind} file")


def _write_events(args: Arguments, spec: SweepSpec) -> tuple[dict[str, Any], str]:
    from sweeper.runner.tracking.tracking import export_events

    run = place_of(args.dir)
    target = place_of(args.out) if args.out else place_of(f"{run.uri}/tensorboard")
    try:
        count = export_events(spec, find_space(spec), run, target)
    except StorageError as error:
        raise SpecError(str(error)) from None
    folder = str(target.local.absolute()) if target.local else target.uri
    shown = show_path(folder)
    text = f"{pluralize(count, 'trial')} in {shown}; `tensorboard --logdir {shlex.quote(shown)}` shows them"
    return {"folder": folder, "trials": count}, text


def _write_study(args: Arguments, spec: SweepSpec) -> tuple[dict[str, Any], str]:
    from sweeper.runner.tracking.optuna_study import write_study
    from sweeper.storage.space_data import known_space

    run = place_of(args.dir)
    if is_uri(args.out) or (run.local is None and not args.out):
        raise SpecError(f"--out must be a file on this machine, got {args.out or run.text}: --out study.db")
    target = Path(args.out or f"{run.local}/study.db").expanduser().absolute()
    count = write_study(spec, known_space(spec).space, run, target)
    shown = show_path(target)
    text = f"{pluralize(count, 'trial')} in {shown}; `optuna-dashboard {shlex.quote(f'sqlite:///{shown}')}` shows them"
    return {"file": str(target), "trials": count}, text


_FOR_OTHERS = {"optuna": _write_study, "tensorboard": _write_events}


def _write_figures(args: Arguments) -> tuple[dict[str, Any], str]:
    from dashboards.page.page import read_run, write_page

    if args.noise:
        check_shown_noise(args.noise)
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
            record[kind] = _write_pictures(run, Path(folder), kind)
            lines.append(f"{pluralize(len(record[kind]), 'figure')} in {folder}")
    return record, "\n".join(lines)


def _write_pictures(run: Run, folder: Path, kind: str) -> list[str]:
    from dashboards.page.images import write_pictures

    return [str(file.absolute()) for file in write_pictures(run, folder, kind)]


@command(_TABLE, _IMPORT, COMMON)
def import_table(args: Arguments) -> int:
    """`sweeper import TABLE --space NAME`."""
    from sweeper.storage.external.columns import pairs
    from sweeper.storage.external.sweep import as_sweep, read_table
    from sweeper.storage.run_folder import write_start
    from sweeper.storage.tables import write_trials

    path = Path(args.table).expanduser()
    if args.sampler and args.sampler not in SAMPLERS:
        raise SpecError(str(unknown("sampler", args.sampler, SAMPLERS)))
    space = str(Path(args.space).resolve()) if args.space.endswith(".py") else args.space
    mapping, settings = pairs(args.map or ()), parse_assignments(args.set or ())
    table, faults = read_table(path)
    sweep = as_sweep(table, path.name, space, mapping, settings, args.sampler, args.drop_missing, faults)
    out = _make_folder(args.out, path)
    try:
        write_start(out, sweep.spec, sweep.space)
        write_trials(out, sweep.rows)
    except StorageError as error:
        raise SpecError(str(error)) from None
    outcomes = dict(Counter(str(r["outcome"]) for r in sweep.rows).most_common())
    record = {
        "run": str(out),
        "trials": len(sweep.rows),
        "configs": sweep.spec.trials,
        "outcomes": outcomes,
        "sampler": sweep.rows[0]["sampler"],
        "notes": list(sweep.notes),
    }
    counts = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.items())
    trials, configurations = pluralize(len(sweep.rows), "trial"), pluralize(sweep.spec.trials, "configuration")
    head = f"{trials} of {configurations} ({counts}) in {show_path(out)}"
    emit(args.json, record, "\n".join([head, *(wrap(note, 0) for note in sweep.notes)]))
    return ExitCode.DONE


def _make_folder(out_option: str | None, table: Path) -> Path:
    if out_option and is_uri(out_option):
        raise SpecError(f"--out must be a local or mounted folder, got {out_option}")
    out = Path(out_option or Path("runs") / table.stem).expanduser().absolute()
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise SpecError(f"{show_path(out)} is not an empty folder; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot write to {show_path(out)}: {error.strerror or error}") from None
    return out


@command(RUN_DIR, COMMON)
def compact(args: Arguments) -> int:
    """`sweeper compact DIR`."""
    from sweeper.storage.compaction import compact as compact_tables
    from sweeper.storage.location import place_of
    from sweeper.storage.run_folder import locked, stored_spec

    stored_spec(args.dir)
    place = place_of(args.dir)
    with locked(place):
        counts = compact_tables(place.patient())
    lines = [f"{table:<9}{count} parts joined into one" for table, count in counts.items()]
    emit(
        args.json, {"run": place.uri, "parts": counts}, "\n".join(lines) or "nothing to do: no table has several parts"
    )
    return ExitCode.DONE
