"""The run folder: Parquet parts in, Arrow tables out. The only place where results are written.

Layout of a run folder (the reader opens nothing else)::

    sweep.yaml                  the merged sweep spec; `sweeper run sweep.yaml` reproduces the sweep
    trials/<digest>.parquet     one row: the trial. Written last, so it marks the trial as finished
    merges/<digest>.parquet     one row per merge and coefficient
    history/<digest>.parquet    one row per child and epoch
    planes/<digest>.parquet     one row per point of the loss plane, where it was asked for
    rungs/<digest>.parquet      one row per look at the trial on its way, where it may be pruned
    search/<number>.parquet     one row: what the sampler thought when it proposed the configuration
    weights/<digest>.safetensors  merged weights of the best trials
    extension.json              trials that `sweeper extend` has begun to run, until all are finished
    dashboard.html              the page

A part is written under another name and renamed, so a reader never sees half of one; workers share no lock.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.result import (
    SCHEMA_VERSION,
    Column,
    HistoryRow,
    MergeRow,
    PairOutput,
    PlaneRow,
    RungRow,
    col,
    columns_of,
    trial_columns,
)

from .places import Place, place_of
from .specfile import SpecError


@dataclass(frozen=True)
class SearchRow:
    """What the sampler thought when it proposed one configuration."""

    number: int = col("position of the configuration in its sweep")
    config: str = col("configuration")
    params: str = col("knobs as JSON")
    sampler: str = col("sampler")
    origin: str | None = col(
        "how the candidate came about: startup, level_set, filling, neighbour (a refined one has its ancestor's), "
        "repeat (of a finished configuration), enqueued (by the user)"
    )
    noise_target: float | None = col("noise of the proposal, of the sweep's definition")
    optimum: float | None = col("the sampler's estimate then: the noise at which the trials' smoothed loss was lowest")
    optimum_low: float | None = col("lower end of its 90 % interval over resamples of the trials so far")
    optimum_high: float | None = col("upper end of that interval")
    exponents: str | None = col("fitted exponents of the noise as JSON")
    seconds_ask: float = col("time the sampler took", "s")
    variance_share: float | None = col("share of the explained variance that noise alone explains", "1", default=None)


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
MANY = "imported"
"""Name of a part with the trials of a whole table."""
_META, _VERSION = b"sweeper.table", b"sweeper.schema_version"


class SkippedPart(UserWarning):
    """A file in the run folder that is no part of its table and was left out."""


class NewerSchema(SpecError):  # noqa: N818  (reads as what it says)
    """A part that a newer version of this package wrote: leaving it out would show half of the truth."""

    def __init__(self, path: str, version: int) -> None:
        super().__init__(
            f"{path} was written by a newer sweeper (schema {version}, this one reads up to {SCHEMA_VERSION}): upgrade"
        )


def _schema(table: str, columns: Iterable[Column]) -> pa.Schema:
    return pa.schema(
        [pa.field(c.name, _ARROW[c.kind], metadata={"unit": c.unit, "doc": c.doc}) for c in columns],
        metadata={_META: table.encode(), _VERSION: str(SCHEMA_VERSION).encode()},
    )


SCHEMAS: Mapping[str, pa.Schema] = {
    "trials": _schema("trials", trial_columns()),
    "merges": _schema("merges", columns_of(MergeRow)),
    "history": _schema("history", columns_of(HistoryRow)),
    "planes": _schema("planes", columns_of(PlaneRow)),
    "rungs": _schema("rungs", columns_of(RungRow)),
    "search": _schema("search", columns_of(SearchRow)),
}


def _records(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [{f.name: getattr(r, f.name) for f in fields(r)} for r in rows]


def _write_part(run: Path, table: str, name: str, rows: Sequence[Mapping[str, Any]], *, few: bool = True) -> None:
    data = pa.Table.from_pylist([dict(r) for r in rows], schema=SCHEMAS[table])
    target = run / table / f"{name}.parquet"
    # temporary files live outside the table's folder: readers of the folder see whole parts only
    temporary = run / ".tmp" / f"{table}-{name}-{uuid.uuid4().hex}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(exist_ok=True)
    # of a few rows statistics, dictionaries and the columns' descriptions would be four fifths of the size
    compact: dict[str, Any] = {"use_dictionary": not few, "write_statistics": not few, "store_schema": False}
    compact["write_page_checksum"] = True  # a flipped bit must not read as a number
    with pq.ParquetWriter(temporary, data.schema, **compact) as writer:
        writer.write_table(data)
        writer.add_key_value_metadata(data.schema.metadata)
    temporary.replace(target)


def write(run: Path, output: PairOutput) -> None:
    """Write one finished trial: merges and history first, the trial row last as the commit mark.

    Raises:
        OSError: The run folder cannot be written to.
    """
    digest = output.result.digest
    _write_part(run, "merges", digest, _records(output.merges))
    _write_part(run, "history", digest, _records(output.history))
    if output.rungs:
        _write_part(run, "rungs", digest, _records(output.rungs))
    if output.plane:
        _write_part(run, "planes", digest, _records(output.plane))
    if output.weights is not None:
        write_weights(run / "weights" / f"{digest}.safetensors", output.weights, output.result)
    _write_part(run, "trials", digest, [output.result.to_row()])


def write_trials(run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write many finished trials, which have nothing but their rows, as one part; its name is no digest."""
    _write_part(run, "trials", MANY, rows, few=False)


def write_search(run: Path, row: SearchRow) -> None:
    """Write what the sampler thought about one configuration."""
    _write_part(run, "search", f"{row.number:06d}", _records([row]))


def write_weights(target: Path, weights: Mapping[str, Any], result: Any) -> None:
    """Write the chosen merge's weights as safetensors, with the trial's digest, spec and scores as metadata."""
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    meta = {
        "digest": result.digest,
        "merge": str(result.chosen_merge),
        "coefficient": repr(result.chosen_coefficient),
        "loss_test": repr(result.scores.get("chosen_loss_test")),
        "accuracy_test": repr(result.scores.get("chosen_accuracy_test")),
        "spec": result.spec,
    }
    # copies: the backbone that two tasks share is in both of their models
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, temporary, metadata=meta)
    temporary.replace(target)


def read_part(place: Place, path: str, table: str) -> pa.Table | str:
    """Return the rows of one part of a place, or the reason why the file is left out.

    Raises:
        NewerSchema: A newer version wrote it.
    """
    schema = SCHEMAS[table]
    try:
        data = pq.ParquetFile(path, page_checksum_verification=True, filesystem=place.store).read()
        kind = (data.schema.metadata or {}).get(_META, b"").decode()
        if kind != table:
            return f"holds {kind or 'foreign data'}, not {table}"
        version = (data.schema.metadata or {}).get(_VERSION, b"")
        if version.isdigit() and int(version) > SCHEMA_VERSION:
            # its columns may mean something else
            raise NewerSchema(path, int(version))
        names = data.column_names  # made anew, in the length of the schema, every time it is asked for
        if version == schema.metadata[_VERSION] and names != schema.names:
            return "does not have the columns of its version"
        there = set(names)
        # an older part lacks the columns that came later: they read as empty
        arrays = [
            data.column(f.name).cast(f.type) if f.name in there else pa.nulls(data.num_rows, f.type) for f in schema
        ]
        whole = pa.Table.from_arrays(arrays, schema=schema)
        whole.validate(full=True)
    except NewerSchema:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        return f"cannot be read ({str(error).splitlines()[0]})"
    return whole


def read_parts(place: Place, paths: Iterable[str], table: str) -> dict[str, pa.Table | str]:
    """Return path -> rows, or the reason why the file is left out, of several parts; they are read at once.

    Raises:
        NewerSchema: A newer version wrote one of them.
    """
    paths = list(paths)
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(paths, pool.map(lambda p: read_part(place, p, table), paths), strict=True))


def skipped(path: str, why: str) -> str:
    """Return the sentence on a file that was left out."""
    return f"{path} {why}; it was skipped; delete it, and `sweeper resume` redoes what is missing"


def read(run: str | Path, table: str) -> pa.Table:
    """Read one table of a run folder.

    Args:
        run: The run folder, a path or a URI (see `sweeper.places`).
        table: `trials`, `merges`, `history`, `planes`, `rungs` or `search`.

    Returns:
        The rows of all whole parts, in order of file name; empty where there are none yet.

    Warns:
        SkippedPart: A file is corrupt or foreign; it is named and left out.

    Raises:
        NewerSchema: A newer version wrote one of them.
        SpecError: The store of a URI cannot be reached.
    """
    place = place_of(run)
    whole: list[pa.Table] = []
    for path, part in read_parts(place, place.parts(table), table).items():
        if isinstance(part, str):
            warnings.warn(skipped(path, part), SkippedPart, stacklevel=2)
        else:
            whole.append(part)
    return pa.concat_tables(whole) if whole else SCHEMAS[table].empty_table()


def read_trials(run: str | Path) -> pa.Table:
    """Read the trials of a run folder, sorted by number and repeat; see `read`."""
    return read(run, "trials").sort_by([("number", "ascending"), ("repeat", "ascending")])
