"""CSV that a spreadsheet opens as data, and that this project reads back as it was."""

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cli.main import main
from sweeper.config.load import load_sweep
from sweeper.formatting import csv_bytes, unquote_cell
from sweeper.storage.external.sweep import read_table
from tests.support.stored_parts import rewrite

FORMULAS = ['=HYPERLINK("http://a.example","x")', "+1", "-2+3", "@SUM(A1)", "\tx", "\r=1", "'=1", "''-x", "＝1"]
PLAIN = ["sgd", "a=b", "'quoted'", "", "–", "x'=1"]


def test_no_text_cell_is_a_formula_and_numbers_stay_numbers() -> None:
    table = pa.table({"=name": [*FORMULAS, *PLAIN], "gain": [-0.5] * (len(FORMULAS) + len(PLAIN))})
    head, *rows = csv.reader(io.StringIO(csv_bytes(table).decode(), newline=""))
    assert head == ["'=name", "gain"]
    assert [r[0] for r in rows] == [*(f"'{f}" for f in FORMULAS), *PLAIN]
    assert {r[1] for r in rows} == {"-0.5"}
    assert [unquote_cell(r[0]) for r in rows] == [*FORMULAS, *PLAIN]


def test_all_kinds_of_text_columns_are_guarded_and_missing_values_stay_missing() -> None:
    texts = pa.array(["=1", None, "b"])
    table = pa.table({"a": texts, "b": texts.cast(pa.large_string()), "c": texts.dictionary_encode()})
    rows = csv_bytes(table).decode().splitlines()[1:]
    assert rows == ['"\'=1","\'=1","\'=1"', ",,", '"b","b","b"']


@given(st.lists(st.text("'=+-@\t\r\n ab,\"", max_size=6), min_size=1, max_size=5))
def test_what_is_written_is_read_back(texts: list[str]) -> None:
    table = pa.table({"text": pa.array(texts, pa.string()), "n": range(len(texts))})
    written = csv_bytes(table)
    assert [unquote_cell(r["text"]) for r in csv.DictReader(io.StringIO(written.decode(), newline=""))] == texts


def test_an_exported_table_with_formulas_is_enqueued_and_imported_as_it_was(tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert (
        main(["run", "synthetic", "--runner", "inline", "--trials", "3", "--sampler", "qmc", "--out", str(first)]) == 0
    )
    for part in (first / "trials").glob("*.parquet"):
        table = pq.read_table(part)
        for name in ("augmentation", "commit"):
            column = pa.array(['=HYPERLINK("x")'] * table.num_rows, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
        rewrite(part, table)
    written = tmp_path / "trials.csv"
    assert main(["export", str(first), "--out", str(written)]) == 0
    cells = [cell for row in csv.reader(io.StringIO(written.read_text(), newline="")) for cell in row]
    assert '\'=HYPERLINK("x")' in cells
    assert not [c for c in cells if c[:1] in ("=", "@", "\t", "\r")]
    assert len(load_sweep("synthetic", {"enqueue": str(written)}).spec.enqueue) == 3
    assert read_table(written)[0]["commit"].to_pylist() == ['=HYPERLINK("x")'] * 3


def test_a_table_whose_column_has_a_control_character_in_its_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"lr": [0.1], "x\x1b[31m": [1]}), tmp_path / "t.parquet")
    assert main(["import", str(tmp_path / "t.parquet"), "--space", "synthetic"]) == 2
    said = capsys.readouterr().err
    assert "a column's name in" in said
    assert "must not hold control or format characters, got 'x\\x1b[31m'" in said
