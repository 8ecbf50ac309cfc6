"""Tables of a run folder: writes Parquet parts and reads Arrow tables.

Layout of a run folder (readers open nothing else)::

    sweep.yaml                  the merged sweep spec; `sweeper run sweep.yaml` reproduces the sweep
    space.json                  its search space as data, so that readers execute no space file
    trials/<digest>.parquet     one row: the trial. Written last, so it marks the trial as finished
    merges/<digest>.parquet     one row per merge and coefficient
    history/<digest>.parquet    one row per child and epoch
    planes/<digest>.parquet     one row per point of the loss plane, with `plane`
    rungs/<digest>.parquet      one row per rung of the trial, with `rungs`
    search/<number>.parquet     one row: state of the sampler when it proposed the configuration
    <table>/compacted-<n>.parquet  rows of many of these parts, see `sweeper.storage.compaction`
    weights/<digest>.safetensors  merged weights of the best trials
    extension.json              trials of an unfinished `sweeper extend`
    dashboard.html              the page

A reader never sees a partial file (see `sweeper.storage.location`); workers need no lock.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from sweeper.errors import SpecError
from sweeper.storage.digests import DIGEST, digest_values
from sweeper.storage.location import Place, place_of
from sweeper.storage.schema import GONE, MANY, META, ROUNDS, SCHEMAS, SEPARATOR, VERSION, NewerSchema, SearchRow
from trainables.result import (
    SCHEMA_VERSION,
    PairOutput,
)

pc: Any = pyarrow.compute  # it creates its functions at import
Run = str | Path | Place
"""A run folder: its path, its URI or its place."""


class SkippedPart(UserWarning):
    """A file in the run folder is not a part of its table and is skipped."""


def _records(rows: Iterable[Any]) -> list[dict[str, Any]]:
    return [{f.name: getattr(r, f.name) for f in fields(r)} for r in rows]


def _write_part(run: Run, table: str, name: str, rows: Sequence[Mapping[str, Any]], *, few: bool = True) -> None:
    write_table(place_of(run), table, name, pa.Table.from_pylist([dict(r) for r in rows], schema=SCHEMAS[table]), few)


def write_table(place: Place, table: str, name: str, data: pa.Table, few: bool = False) -> None:
    """Write rows as one part of a table; `few` saves space for a few rows.

    Raises:
        StorageError: The part cannot be written.
    """
    # statistics, dictionaries and column descriptions would be four fifths of the size of a few rows
    compact: dict[str, Any] = {"use_dictionary": not few, "write_statistics": not few, "store_schema": False}
    compact["write_page_checksum"] = True  # detects flipped bits of a page, and the digest those of its header
    content = pa.BufferOutputStream()
    with pq.ParquetWriter(content, data.schema, **compact) as writer:
        writer.write_table(data)
        writer.add_key_value_metadata({**(data.schema.metadata or {}), DIGEST: digest_values(data)})
    place.write(f"{table}/{name}.parquet", content.getvalue())


def write(run: Run, output: PairOutput) -> None:
    """Write one finished trial: merges and history first, then the trial row, which marks it as finished.

    Raises:
        StorageError: The run folder cannot be written to.
    """
    place, digest = place_of(run), output.result.digest
    _write_part(place, "merges", digest, _records(output.merges))
    _write_part(place, "history", digest, _records(output.history))
    if output.rungs:
        _write_part(place, "rungs", digest, _records(output.rungs))
    if output.plane:
        _write_part(place, "planes", digest, _records(output.plane))
    if (weights := output.weights) is not None:
        place.write_file(weights_of(digest), lambda path: _save(path, weights, output.result))
    _write_part(place, "trials", digest, [output.result.to_row()])


def weights_of(digest: str) -> str:
    """Return the name of a trial's merged weights in its run folder."""
    return f"weights/{digest}.safetensors"


def write_trials(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write many finished trials that consist of their rows only as one part; its name is not a digest."""
    _write_part(run, "trials", MANY, rows, few=False)


def write_search(run: Run, row: SearchRow) -> None:
    """Write the state of the sampler for one configuration."""
    _write_part(run, "search", f"{row.number:06d}", _records([row]))


def write_weights(target: Path, weights: Mapping[str, Any], result: Any) -> None:
    """Write the chosen merge's weights as safetensors, with the trial's digest, spec and scores as metadata."""
    place_of(target.parent).write_file(target.name, lambda path: _save(path, weights, result))


def _save(path: Path, weights: Mapping[str, Any], result: Any) -> None:
    from safetensors.torch import save_file

    meta = {
        "digest": result.digest,
        "merge": str(result.chosen_merge),
        "coefficient": repr(result.chosen_coefficient),
        **({"window": repr(result.chosen_window)} if result.chosen_window else {}),
        "loss_test": repr(result.scores.get("chosen_loss_test")),
        "accuracy_test": repr(result.scores.get("chosen_accuracy_test")),
        "spec": result.spec,
    }
    # copies, because safetensors rejects the shared backbone of two tasks
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}, path, metadata=meta)


def read_part(place: Place, path: str, table: str) -> pa.Table | str:
    """Return the rows of one part, or the reason to skip the file; `GONE` if it vanished.

    Raises:
        NewerSchema: A newer version wrote the part.
        SpecError: The store cannot be reached.
    """
    schema = SCHEMAS[table]
    try:
        source: Any = path
        if place.store is not None:
            content = place.content(path)
            if content is None:
                return GONE
            source = pa.BufferReader(content)
        data = pq.ParquetFile(source, page_checksum_verification=True).read()
        kind = (data.schema.metadata or {}).get(META, b"").decode()
        if kind != table:
            return f"holds {kind or 'foreign data'}, not {table}"
        version = (data.schema.metadata or {}).get(VERSION, b"")
        if version.isdigit() and int(version) > SCHEMA_VERSION:
            # its columns may have other meanings
            raise NewerSchema(path, int(version))
        stored = (data.schema.metadata or {}).get(DIGEST)
        if stored is not None and stored != digest_values(data):
            return "does not hold the values that were written"
        names = data.column_names  # each access builds this list
        if version == schema.metadata[VERSION] and _fixed_columns(names, table) != _fixed_columns(schema.names, table):
            return "does not have the columns of its version"
        present = set(names)
        # an older part lacks later columns, which read as empty
        arrays = [
            data.column(f.name).cast(f.type) if f.name in present else pa.nulls(data.num_rows, f.type) for f in schema
        ]
        whole = pa.Table.from_arrays(arrays, schema=schema)
        whole.validate(full=True)
        whole = _mark_biased(whole) if table == "trials" else whole
    except SpecError:
        raise
    except FileNotFoundError:
        return GONE
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        return f"cannot be read ({str(error).splitlines()[0]})"
    return whole


def _fixed_columns(names: Iterable[str], table: str) -> list[str]:
    """Return the columns that a schema version fixes: a new definition of noise adds one to `trials` without it."""
    return [n for n in names if table != "trials" or n == "noise_target" or not n.startswith("noise_")]


_UNBIASED_SINCE = 4  # schema version
BIASED = "biased_gradient_norm"
BIASED_MEANING = f"A version before schema {_UNBIASED_SINCE} measured `gradient_norm2`, which is too low by S²_x/N."
"""Warning that reading adds to old rows, and its meaning."""
_BIASED = (
    f"{BIASED}: an earlier version wrote this row (schema {{}}): its gradient_norm2 is low by S2_x/N, "
    "so b_simple and noise critical_ratio are too large; `sweeper pair` measures the trial again"
)


def _mark_biased(trials: pa.Table) -> pa.Table:
    # old rows with |G|^2 get a warning; the stored numbers stay unchanged
    versions, norms = trials.column("schema_version").to_pylist(), trials.column("gradient_norm2").to_pylist()
    old = [n is not None and v is not None and v < _UNBIASED_SINCE for v, n in zip(versions, norms, strict=True)]
    if not any(old):
        return trials
    texts = [
        t if not is_old or BIASED in (t or "") else SEPARATOR.join(filter(None, [t, _BIASED.format(v)]))
        for t, is_old, v in zip(trials.column("warnings").to_pylist(), old, versions, strict=True)
    ]
    at = trials.schema.get_field_index("warnings")
    return trials.set_column(at, trials.schema.field(at), pa.array(texts, trials.schema.field(at).type))


def read_parts(place: Place, paths: Iterable[str], table: str) -> dict[str, pa.Table | str]:
    """Return path -> rows, or the reason to skip the file; read the parts in parallel.

    Raises:
        NewerSchema: A newer version wrote a part.
        SpecError: The store cannot be reached.
    """
    paths = list(paths)
    with ThreadPoolExecutor(8 if place.store is None else 32) as pool:
        return dict(zip(paths, pool.map(lambda p: read_part(place, p, table), paths), strict=True))


def skipped(path: str, why: str) -> str:
    """Return a sentence on a skipped file."""
    return f"{path} {why}; it was skipped; delete it, and `sweeper resume` repeats the missing trials"


def joined(parts: Mapping[str, pa.Table], table: str) -> pa.Table:
    """Return the rows of several parts of a table as one table, without duplicate trials.

    The part of a single trial, whose name is its digest, overrides parts with many trials. Among those, the last name
    wins: a compaction writes all rows under a later name before it removes the merged parts, single trials last.

    Args:
        parts: Path -> rows.
        table: Name of the table.
    """
    key = "number" if table == "search" else "digest"
    single = {p: rows for p, rows in parts.items() if _is_single(p, rows, key)}
    # pa.array would import pandas
    firsts = [rows.column(key).slice(0, 1).combine_chunks() for rows in single.values()]
    seen = pa.concat_arrays([pa.nulls(0, SCHEMAS[table].field(key).type), *firsts])
    many: list[pa.Table] = []
    for path in sorted(parts.keys() - single.keys(), reverse=True):
        rows = parts[path]
        if len(seen):
            rows = rows.filter(pc.invert(pc.is_in(rows.column(key), value_set=seen)))
        seen = pa.concat_arrays([seen, pc.unique(rows.column(key))])
        many.insert(0, rows)
    tables = [*many, *single.values()]
    # one chunk, because thousands of small ones slow down every later step
    return pa.concat_tables(tables).combine_chunks() if tables else SCHEMAS[table].empty_table()


def _is_single(path: str, rows: pa.Table, key: str) -> bool:
    if not rows.num_rows:
        return False
    value, stem = rows.column(key)[0].as_py(), path.rpartition("/")[2].removesuffix(".parquet")
    return stem == (f"{value:06d}" if isinstance(value, int) else value)


def read(run: Run, table: str) -> pa.Table:
    """Return one table of a run folder.

    Args:
        run: The run folder, a path or a URI (see `sweeper.storage.location`).
        table: `trials`, `merges`, `history`, `planes`, `rungs` or `search`.

    Returns:
        The rows of all readable parts; empty without parts. After an interrupted compaction, a trial in two parts
        counts once.

    Warns:
        SkippedPart: A file is damaged or foreign, and skipped.

    Raises:
        NewerSchema: A newer version wrote a part.
        SpecError: The store of a URI cannot be reached.
    """
    place = place_of(run)
    found: dict[str, pa.Table | str] = {}
    for _ in range(ROUNDS):
        found = read_parts(place, place.parts(table), table)
        if GONE not in found.values():
            break  # otherwise a compaction moved rows to another part
    for path, part in found.items():
        if isinstance(part, str) and part != GONE:
            warnings.warn(skipped(path, part), SkippedPart, stacklevel=2)
    return joined({path: part for path, part in found.items() if isinstance(part, pa.Table)}, table)


def read_trials(run: Run) -> pa.Table:
    """Return the trials of a run folder, sorted by number and repeat; see `read`."""
    return read(run, "trials").sort_by([("number", "ascending"), ("repeat", "ascending")])


def read_rows(run: Run, table: str, digests: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of the trials with a separate part in a table, without opening other parts."""
    place = place_of(run)
    found = read_parts(place, [f"{place.path}/{table}/{digest}.parquet" for digest in digests], table)
    return [row for part in found.values() if not isinstance(part, str) for row in part.to_pylist()]
