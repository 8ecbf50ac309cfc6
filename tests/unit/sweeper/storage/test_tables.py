"""The run folder: schema from the types, whole parts only, foreign files skipped by name, any reader reads it."""

import errno
import os
import random
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import search_spaces
from sweeper.errors import SpecError, StorageError
from sweeper.storage import tables
from sweeper.storage.schema import SCHEMAS, SearchRow
from sweeper.storage.tables import SkippedPart, read, read_trials, write, write_search, write_trials
from tests.support.stored_parts import rewrite
from trainables.result import SCHEMA_VERSION, trial_columns
from trainables.runtime import Runtime
from trainables.trial import run_trials

GOLDEN = sorted((Path(__file__).parents[3] / "data").glob("schema-*"))
KNOBS = {"learning_rate": 0.1, "batch_size": 16, "momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.5}


def fill(run: Path, count: int) -> list[str]:
    space = search_spaces.load("synthetic")
    outputs = [run_trials([space.build(KNOBS, seed=i)], Runtime())[0] for i in range(count)]
    for output in outputs:
        write(run, output)
    return [o.result.digest for o in outputs]


def test_schema_is_the_result_types(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    part = next((tmp_path / "trials").iterdir())
    assert pq.read_schema(part).names == [c.name for c in trial_columns()]
    assert part.stat().st_size < 32_000  # 10,000 trials must stay small
    schema = read_trials(tmp_path).schema
    assert schema.names == [c.name for c in trial_columns()]
    for column in trial_columns():
        field = schema.field(column.name)
        assert field.metadata[b"unit"].decode() == column.unit
        assert field.metadata[b"doc"].decode() == column.doc


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    space = search_spaces.load("synthetic")
    output = run_trials([space.build(KNOBS)], Runtime())[0]
    write(tmp_path, output)
    assert read_trials(tmp_path).to_pylist() == [output.result.to_row()]
    merges = read(tmp_path, "merges").to_pylist()
    assert [(m["coefficient"], m["loss_test"]) for m in merges] == [(m.coefficient, m.loss_test) for m in output.merges]
    assert read(tmp_path, "history").num_rows == len(output.history)
    row = SearchRow(3, "c", "{}", "noise", None, 0.1, None, None, None, '{"momentum": 0.8}', 0.5, 0.7)
    write_search(tmp_path, row)
    assert read(tmp_path, "search").to_pylist() == [asdict(row)]


def test_rewriting_a_trial_keeps_one_row(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    fill(tmp_path, 2)
    assert read_trials(tmp_path).num_rows == 2


@pytest.mark.parametrize("reader", ["pyarrow", "pandas", "duckdb", "polars"])
def test_other_readers_read_the_folder_as_it_is(tmp_path: Path, reader: str) -> None:
    digests = fill(tmp_path, 3)
    folder = tmp_path / "trials"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the readers themselves
        found = {
            "pyarrow": lambda: ds.dataset(folder).to_table()["digest"].to_pylist(),
            "pandas": lambda: list(pd.read_parquet(folder)["digest"]),
            "duckdb": lambda: [r[0] for r in duckdb.sql(f"select digest from '{folder}/*.parquet'").fetchall()],
            "polars": lambda: pl.read_parquet(folder)["digest"].to_list(),
        }[reader]()
    assert sorted(found) == sorted(digests)


def test_corrupt_and_foreign_parts_are_named_and_skipped(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    (tmp_path / "trials" / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    pq.write_table(pa.table({"digest": ["x"]}), tmp_path / "trials" / "foreign.parquet")
    merges = next((tmp_path / "merges").iterdir())
    (tmp_path / "trials" / "merge.parquet").write_bytes(merges.read_bytes())
    with pytest.warns(SkippedPart) as seen:
        table = read_trials(tmp_path)
    assert table.num_rows == 2
    texts = sorted(str(w.message) for w in seen)
    assert len(texts) == 3
    assert "foreign.parquet holds foreign data, not trials" in texts[0]
    assert "merge.parquet holds merges, not trials" in texts[1]
    assert "torn.parquet cannot be read" in texts[2]


def test_no_damaged_part_is_fatal_and_none_is_read_as_good(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (part,) = (tmp_path / "trials").iterdir()
    whole, good = part.read_bytes(), read_trials(tmp_path).to_pylist()
    rng, unseen = random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        part.write_bytes(damaged[: rng.choice((len(damaged), rng.randrange(len(damaged))))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedPart)
            rows = read_trials(tmp_path).to_pylist()
        unseen += rows not in ([], good)
    assert unseen == 0


def test_a_part_of_an_earlier_version_without_a_digest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(tables, "digest_values", lambda _: b"")
        earlier.setattr(tables, "DIGEST", b"another")
        fill(tmp_path, 2)
    assert read_trials(tmp_path).num_rows == 2


def test_nothing_half_written_is_in_a_table_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = search_spaces.load("synthetic")
    output = run_trials([space.build(KNOBS)], Runtime())[0]
    real, calls = Path.write_bytes, []

    def torn(where: Path, data: Any) -> Any:
        calls.append(where)
        if len(calls) == 3:  # merges, history, then the trial itself
            real(where, b"PAR1")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(where, data)

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(StorageError, match=r"^cannot write .*/trials/\w+\.parquet: No space left on device$"):
        write(tmp_path, output)
    assert not list(tmp_path.glob("trials/*"))
    assert read_trials(tmp_path).num_rows == 0


def test_empty_folder_reads_as_empty_tables(tmp_path: Path) -> None:
    for name, schema in SCHEMAS.items():
        assert read(tmp_path, name).schema == schema


def test_a_part_of_a_newer_schema_says_upgrade(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    part = sorted((tmp_path / "trials").iterdir())[1]
    table = pq.read_table(part).append_column("from_the_future", pa.array([1.0]))
    newer = {**(table.schema.metadata or {}), b"sweeper.schema_version": str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(table.replace_schema_metadata(newer), part)
    with pytest.raises(
        SpecError, match=f"schema {SCHEMA_VERSION + 1}, this one reads up to {SCHEMA_VERSION}.; upgrade"
    ):
        read_trials(tmp_path)


def test_a_part_with_other_definitions_of_noise_reads(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    part = next((tmp_path / "trials").iterdir())
    stored = pq.read_table(part)
    row = read_trials(tmp_path).to_pylist()[0]
    rewrite(part, stored.drop_columns(["noise_paper"]).append_column("noise_other", pa.array([1.0])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_trials(tmp_path).to_pylist() == [row | {"noise_paper": None}]
    for fixed in ("merged_loss_val", "noise_target"):
        rewrite(part, stored.drop_columns([fixed]))
        with pytest.warns(SkippedPart, match="does not have the columns of its version"):
            assert read_trials(tmp_path).num_rows == 0


def test_many_rows_in_one_part_read_as_many_parts_do(tmp_path: Path) -> None:
    fill(tmp_path / "parts", 3)
    rows = read_trials(tmp_path / "parts").to_pylist()
    write_trials(tmp_path / "one", rows)
    assert len(list((tmp_path / "one" / "trials").iterdir())) == 1
    assert read_trials(tmp_path / "one").to_pylist() == rows


def test_there_are_golden_parts_of_every_schema() -> None:
    assert [int(g.name.removeprefix("schema-")) for g in GOLDEN] == list(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: g.name)
def test_golden_parts_of_released_schemas_still_read(golden: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trials, merges = read_trials(golden), read(golden, "merges")
        others = {t: read(golden, t).num_rows for t in SCHEMAS if (golden / t).is_dir()}
    assert trials.num_rows == 2
    assert all(others.values())
    row = trials.to_pylist()[0]
    assert row["schema_version"] == int(golden.name.removeprefix("schema-"))
    assert (row["space"], row["dataset"], row["outcome"]) == ("digits_label_noise", "digits", "ok")
    half = [m for m in merges.to_pylist() if m["digest"] == row["digest"] and m["method"] == "linear"]
    assert next(m["loss_test"] for m in half if m["coefficient"] == 0.5) == row["merged_loss_test"]
    assert row["gain_mean_loss_test"] == pytest.approx(
        (row["a_loss_test"] + row["b_loss_test"]) / 2 - row["merged_loss_test"], abs=1e-15
    )
    # a column that left the schema would be lost to everybody who stored it
    for table, schema in SCHEMAS.items():
        for part in (golden / table).glob("*.parquet"):
            assert set(pq.read_schema(part).names) <= set(schema.names)


def test_rows_whose_gradient_norm_is_biased_say_so_once(tmp_path: Path) -> None:
    for golden in GOLDEN:
        version = int(golden.name.removeprefix("schema-"))
        for row in read_trials(golden).to_pylist():
            old = version < 4 and row["gradient_norm2"] is not None
            assert (row["warnings"] or "").count("biased_gradient_norm") == old, golden
    old = read_trials(Path(__file__).parents[3] / "data" / "schema-3")
    write_trials(tmp_path, old.to_pylist())  # as a compaction does
    again = read_trials(tmp_path).to_pylist()
    assert {r["schema_version"] for r in again} == {3}
    assert [r["warnings"].count("biased_gradient_norm") for r in again] == [1, 1]
