"""A table of pairs from elsewhere as a sweep.

Values that the table neither holds nor implies stay empty. The rows' `trainable` is `imported`: they were trained
elsewhere, and nothing here can run them again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from search_spaces import Space, load
from search_spaces._conditions import acts
from search_spaces._space import SpaceError
from sweeper.config.fields import Parameter
from sweeper.config.plain_text import check_plain, check_plain_values
from sweeper.config.points import convert_points
from sweeper.config.space import load_space
from sweeper.config.spec import SweepSpec
from sweeper.config.table_values import BadCells, is_empty, read_csv
from sweeper.errors import SpecError
from sweeper.formatting import pluralize
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.external.columns import ASSUMED_SPLIT, FIELDS, OUTCOME, REPEAT, RESULTS, Mapped, map_columns
from sweeper.storage.external.rows import Rows
from trainables.noise import KNOBS
from trainables.registry import UnknownName, unknown
from trainables.result import MODELS_SCORED, SPLITS, Outcome
from trainables.spec import PairSpec
from trainables.trial import IMPORTED

UNKNOWN_SAMPLER = "unknown"
SETTINGS = ("examples", "classes", "parameters")
"""Columns that `--set` can name beside the fields of the trial: properties of the data and the model."""
MOST_LEVELS, FULL = 32, 0.9  # a knob with more values gets a range; a grid may lack a tenth of its cells

Row = dict[str, Any]
_Read = tuple[pa.Table, dict[int, str]]


@dataclass(frozen=True)
class Imported:
    """A table as a sweep.

    Attributes:
        spec: Spec of the sweep.
        space: Its search space.
        rows: Rows of the trials table.
        notes: Notes on the import, one sentence each.
    """

    spec: SweepSpec
    space: Space
    rows: list[Row]
    notes: tuple[str, ...]


# -- the table --------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> tuple[pa.Table, dict[int, str]]:
    """Return the table in a file, and row -> the fault in its number of cells; the suffix decides the format.

    Raises:
        SpecError: No such file, an unknown suffix, or an unreadable file.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise SpecError(f"a table must be one of {', '.join(_READERS)}, got {path}")
    if not path.is_file():
        raise SpecError(f"there is no file {path}")
    try:
        table, faults = read(path)
    except SpecError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SpecError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not table.num_rows:
        raise SpecError(f"{path} has no rows: there is nothing to import")
    if twice := [n for n, count in Counter(table.column_names).items() if count > 1]:
        raise SpecError(f"{path} has two columns {twice[0]!r}; rename one")
    for column in table.column_names:
        check_plain(f"a column's name in {path}", column)
    return table, faults


def _parquet(path: Path) -> _Read:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read(), {}


def _csv(path: Path) -> _Read:
    found = read_csv(path)
    columns = list(zip(*found.rows, strict=True)) or [()] * len(found.names)
    return pa.Table.from_arrays([pa.array(cells, pa.string()) for cells in columns], found.names), found.faults


def _arrow(path: Path) -> _Read:
    import pyarrow.feather

    try:
        return pyarrow.feather.read_table(path), {}
    except pa.ArrowInvalid:  # Arrow's other format: a stream
        with pa.ipc.open_stream(path) as reader:
            return reader.read_all(), {}


_READERS: Mapping[str, Callable[[Path], _Read]] = {
    ".parquet": _parquet, ".pq": _parquet, ".csv": _csv, ".feather": _arrow, ".arrow": _arrow, ".ipc": _arrow,
}  # fmt: skip


# -- the sweep --------------------------------------------------------------------------------------------------------


def as_sweep(
    table: pa.Table,
    name: str,
    space: str,
    mapping: Mapping[str, str],
    settings: Mapping[str, Any],
    sampler: str | None = None,
    drop_missing: bool = False,
    faults: Mapping[int, str] | None = None,
) -> Imported:
    """Return a table as a sweep of a space.

    Args:
        table: One row per pair.
        name: Name of the table, for messages.
        space: Name of a space or path of a space file; it provides fields that the table lacks.
        mapping: Column -> name in the trials table, for columns with other names.
        settings: Field of the trial (or of `SETTINGS`) -> its value, the same for all rows.
        sampler: Sampler of the configurations; None checks whether they are a full grid.
        drop_missing: Whether to leave out unusable rows.
        faults: Row, from 1 -> its known fault.

    Raises:
        SpecError: A column, field or value is unusable; the message says what to do.
    """
    columns = map_columns(table.column_names, mapping)
    source, bad = _load_space(space), BadCells(name, table.num_rows, dict(faults or {}))
    data = _data(table, columns, source, bad)
    for field in settings:
        if field in data:
            raise SpecError(f"{field} is set and also column {columns.sources[field]!r} of {name}; leave one out")
    fields = {k: v for k, v in settings.items() if k not in SETTINGS}
    unknown_knobs = _missing(source, _given(data, source), fields, name, columns)
    _check_rows(source, fields, _given(data, source), bad)
    kept, numbers = _select_rows(data, bad, drop_missing)
    dropped = table.num_rows - len(numbers)
    given = _given(kept, source)
    chosen, how = (sampler, f"chosen by {sampler}, as --sampler says") if sampler else _sampling(given, source)
    spec = _sweep(source, space, fields, given, chosen)
    check_plain_values(spec.dump_explicit())
    own = load_space(spec)
    rows = Rows(name, own, given, _counts(settings), unknown_knobs).build(kept, numbers)
    repeats = Counter(r["config"] for r in rows)
    size = {"trials": len(repeats), "repeats": min(repeats.values())}
    known = {"sampler": chosen} if chosen in SAMPLERS else {}
    spec = SweepSpec.checked({**spec.model_dump(exclude_unset=True), **known, **size})
    rows = [{**r, "sampler": chosen, "space": source.name} for r in rows]
    return Imported(spec, own, rows, (*_notes(columns, unknown_knobs, rows, kept, dropped), how))


def _load_space(space: str) -> Space:
    try:
        return load(space)
    except (SpaceError, UnknownName) as error:
        raise SpecError(str(error)) from None


def _data(table: pa.Table, columns: Mapped, source: Space, bad: BadCells) -> dict[str, list[Any]]:
    # target -> values, None for empty cells; empty columns are ignored, except scores, whose pairs diverged
    found: dict[str, list[Any]] = {}
    for target, column in columns.sources.items():
        where = f"column {column!r}: {target}"
        cells = table.column(column).to_pylist()
        if not all(map(is_empty, cells)) or target in _SCORES:
            values = bad.parse(cells, _kind(target), where)
            _check_scores(values, target, where, bad)
            if target == OUTCOME:
                _check_outcomes(values, where, bad)
            found[target] = values
    return found


_SCORES = frozenset(f"{who}_loss_{split}" for who in MODELS_SCORED for split in SPLITS)


def _kind(target: str) -> str | None:
    # any value may distinguish repeats
    if target == REPEAT:
        return None
    if target in FIELDS or target in RESULTS:
        return FIELDS.get(target) or RESULTS[target]
    return None


def _given(data: Mapping[str, list[Any]], source: Space) -> dict[str, list[Any]]:
    return {k: v for k, v in data.items() if (k in FIELDS and k != "seed") or k in source.knobs}


def _select_rows(data: Mapping[str, list[Any]], bad: BadCells, drop: bool) -> tuple[dict[str, list[Any]], list[int]]:
    # the columns without unusable rows, and the numbers of the other rows in the file
    if not drop:
        bad.refuse("fix it, or import the other rows by --drop-missing" if len(bad.faults) < bad.total else "")
    if len(bad.faults) == bad.total:
        bad.refuse()
    rows = [i for i in range(1, bad.total + 1) if i not in bad.faults]
    return {target: [values[i - 1] for i in rows] for target, values in data.items()}, rows


def _check_scores(values: Iterable[Any], target: str, where: str, bad: BadCells) -> None:
    if "_accuracy_" not in target or target.startswith("gain_"):
        return
    for row, value in enumerate(values, 1):
        if value is not None and not -1e-9 <= value <= 1:
            bad.add(row, f"{where} must lie in [0, 1], got {value!r}; divide percentages by 100")


def _check_outcomes(values: Iterable[Any], where: str, bad: BadCells) -> None:
    for row, value in enumerate(values, 1):
        if value is not None and value not in set(Outcome):
            bad.add(row, f"{where}: {unknown('outcome', str(value), list(Outcome))}")


def _counts(settings: Mapping[str, Any]) -> dict[str, int]:
    found = {k: v for k, v in settings.items() if k in SETTINGS}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"--set {name} must be a whole number >= 1, got {value!r}")
    return found


def _missing(
    source: Space, given: Collection[str], fields: Collection[str], name: str, columns: Mapped
) -> tuple[str, ...]:
    # knobs without values; those in the noise formulas must have values
    missing = [k for k in source.knobs if k not in given and k not in fields]
    needed = [k for k in KNOBS if k in missing]
    needed += [k for k in ("learning_rate", "batch_size") if k not in {*given, *fields, *source.fixed, *missing}]
    if needed:
        knob, column = needed[0], columns.sources.get(needed[0])
        fault = f"column {column!r} of {name} is empty" if column else f"{name} has no column for {knob}"
        ways = f"--set {knob}=VALUE where all rows share it"
        raise SpecError(f"{fault}; {ways if column else f'name it by --map COLUMN={knob}, or {ways}'}")
    return tuple(k for k in missing if not source.conditions.get(k))


def _check_rows(source: Space, fields: Mapping[str, Any], given: Mapping[str, Sequence[Any]], bad: BadCells) -> None:
    # by row, before the ranges of all rows define a sweep
    shared = {**source.fixed, **{k: v for k, v in fields.items() if "." not in k}}
    for i, values in enumerate(zip(*given.values(), strict=True), 1):
        if i in bad.faults:
            continue
        own = dict(zip(given, values, strict=True))
        empty = [k for k, v in own.items() if v is None and acts(k, own, source.conditions)]
        try:
            if empty:
                raise ValueError(f"{empty[0]} is empty")
            PairSpec.from_mapping({**shared, **{k: v for k, v in own.items() if v is not None}})
        except (ValueError, TypeError) as error:
            bad.add(i, str(error))


def _sweep(
    source: Space, space: str, fields: Mapping[str, Any], given: Mapping[str, Sequence[Any]], sampler: str
) -> SweepSpec:
    # the space, with other ranges if its ranges do not contain the values of the table
    fixed: dict[str, Any] = {**fields, "trainable": IMPORTED}
    parameters: dict[str, Parameter] = {}
    for field, values in given.items():
        levels = _levels(values)
        inside = field in source.knobs and _within(source, field, levels)
        if len(levels) > 1 and (sampler == "grid" or not inside):
            parameters[field] = _range(levels, getattr(source.knobs.get(field), "log", False))
        elif not inside and (field in source.knobs or source.fixed.get(field) != levels[0]):
            fixed[field] = levels[0]
    return SweepSpec.checked({"space": space, "fixed": fixed, "parameters": parameters})


def _levels(values: Iterable[Any]) -> list[Any]:
    return sorted({v for v in values if v is not None}, key=lambda v: (isinstance(v, str), v))


def _within(space: Space, knob: str, values: Iterable[Any]) -> bool:
    try:
        convert_points(space, [{knob: v} for v in values])
    except SpaceError:
        return False
    return True


def _range(levels: Sequence[Any], log: bool) -> Parameter:
    if len(levels) <= MOST_LEVELS or not all(isinstance(v, int | float) for v in levels):
        return Parameter.model_validate({"values": levels})
    kind = "log_uniform" if log and levels[0] > 0 else "uniform"
    return Parameter.model_validate({"min": levels[0], "max": levels[-1], "distribution": kind})


def _sampling(given: Mapping[str, Sequence[Any]], source: Space) -> tuple[str, str]:
    # a full grid is designed before any result; the choice of points in other tables is unknown
    sizes = [n for values in given.values() if (n := len(_levels(values))) > 1]
    points = len({tuple(map(repr, point)) for point in zip(*given.values(), strict=True)})
    if len(sizes) > 1 and points >= FULL * math.prod(sizes):
        return "grid", f"the {points} configurations are a grid of {' x '.join(map(str, sizes))} levels: designed"
    return UNKNOWN_SAMPLER, (
        "the sampler is unknown, and an adaptive one biases tests of the curve's shape; --sampler grid, qmc or random "
        "marks a design"
    )


def _notes(
    columns: Mapped, unknown_knobs: Sequence[str], rows: Sequence[Row], data: Mapping[str, list[Any]], dropped: int
) -> list[str]:
    found: list[str] = []
    if dropped:
        found.append(f"left out {pluralize(dropped, 'row')} that cannot be used (--drop-missing)")
    for target, values in data.items():
        if values and all(v is None for v in values):
            column = columns.sources[target]
            found.append(
                f"column {column!r} is empty: pairs without {target} count as diverged; --map {column}= leaves it out"
            )
    if columns.assumed:
        one = columns.assumed[0]
        found.append(
            f"{', '.join(columns.assumed)} have no split in their name, so they count as {ASSUMED_SPLIT}; --map "
            f"{one}={_on_validation(columns, one)} says otherwise"
        )
    if columns.unused:
        found.append(f"not taken: {', '.join(columns.unused)}; --map COLUMN=NAME names a column")
    if unknown_knobs:
        found.append(f"{', '.join(unknown_knobs)} is unknown and stays empty; --set {unknown_knobs[0]}=VALUE gives it")
    if not any(r["examples"] for r in rows):
        found.append("the number of training examples is unknown: noises that need it stay empty; --set examples=N")
    return found


def _on_validation(columns: Mapped, column: str) -> str:
    target = next(name for name, source in columns.sources.items() if source == column)
    return f"{target.removesuffix(ASSUMED_SPLIT)}val"
