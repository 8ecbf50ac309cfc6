"""Digests of parts: the same values have the same digest, however Arrow holds them; a flipped bit changes it."""

import math
import random
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.storage.digests import DIGEST, digest_values
from sweeper.storage.location import place_of
from sweeper.storage.schema import META, SCHEMAS, VERSION
from sweeper.storage.tables import SkippedPart, read, write_table

VALUES: dict[str, list[Any]] = {
    "text": ["a", None, "", "µ", "end"],
    "whole": [1, None, -3, 4, 2**40],
    "real": [0.5, math.nan, None, -0.0, math.inf],
    "nothing": [None] * 5,
}
TYPES = {"text": pa.string(), "whole": pa.int64(), "real": pa.float64(), "nothing": pa.float64()}
SCHEMA = pa.schema(TYPES, metadata={META: b"trials", VERSION: b"9"})


def table_of(values: dict[str, list[Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pydict(values, schema=schema)


def test_chunks_offsets_and_hidden_values_do_not_count(tmp_path: Path) -> None:
    plain = table_of(VALUES)
    expected = digest_values(plain)
    longer = table_of({name: [values[0], *values, values[-1]] for name, values in VALUES.items()})
    assert digest_values(longer.slice(1, 5)) == expected
    assert digest_values(pa.concat_tables([plain.slice(0, 2), plain.slice(2)])) == expected
    hidden = pa.array([0.5, math.nan, 77.0, -0.0, math.inf], mask=[False, False, True, False, False])
    assert digest_values(plain.set_column(2, SCHEMA.field("real"), hidden)) == expected
    pq.write_table(plain, tmp_path / "a.parquet", use_dictionary=False)
    assert digest_values(pq.read_table(tmp_path / "a.parquet")) == expected
    assert digest_values(table_of({name: [] for name in VALUES})) != expected


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [("text", 2, "b"), ("text", 1, ""), ("text", 2, None), ("whole", 0, 0), ("whole", 1, 0), ("real", 3, 0.0),
     ("real", 2, 0.5), ("nothing", 0, 0.0)],
)  # fmt: skip
def test_every_value_counts(name: str, row: int, value: Any) -> None:
    changed = {**VALUES, name: [*VALUES[name][:row], value, *VALUES[name][row + 1 :]]}
    assert digest_values(table_of(changed)) != digest_values(table_of(VALUES))


def test_names_kind_and_version_count() -> None:
    plain = digest_values(table_of(VALUES))
    other = table_of(VALUES).rename_columns(["txt", *list(VALUES)[1:]])
    assert digest_values(other.replace_schema_metadata(SCHEMA.metadata)) != plain
    for key in (META, VERSION):
        assert digest_values(table_of(VALUES, SCHEMA.with_metadata({**SCHEMA.metadata, key: b"8"}))) != plain


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_table_has_a_digest_that_reading_finds_again(table: str, tmp_path: Path) -> None:
    place = place_of(tmp_path)
    rows = [{f.name: {"string": "x", "int64": i, "double": 0.5 * i}[str(f.type)] if i % 2 else None
             for f in SCHEMAS[table]} for i in range(4)]  # fmt: skip
    write_table(place, table, "part", pa.Table.from_pylist(rows, schema=SCHEMAS[table]))
    (path,) = place.parts(table)
    assert len(pq.ParquetFile(path).schema_arrow.metadata[DIGEST]) == 8
    assert read(tmp_path, table).num_rows == 4


def test_a_flipped_bit_anywhere_is_seen(tmp_path: Path) -> None:
    place = place_of(tmp_path)
    rows = [{f.name: "some text" if str(f.type) == "string" else 3 for f in SCHEMAS["rungs"]}] * 3
    write_table(place, "rungs", "part", pa.Table.from_pylist(rows, schema=SCHEMAS["rungs"]), True)
    (path,) = place.parts("rungs")
    whole, good, rng = Path(path).read_bytes(), read(tmp_path, "rungs"), random.Random(0)
    for _ in range(800):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        Path(path).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedPart)
            found = read(tmp_path, "rungs")
        assert found.num_rows == 0 or found.equals(good)
