"""Tables as other programs write them: uneven rows, columns without names, Excel's first line, very large numbers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_spaces import load
from sweeper.cli.main import main
from sweeper.config.points import read_points
from sweeper.config.table_values import parse, read_csv
from sweeper.errors import SpecError
from sweeper.storage.tables import read_trials

HEADER = "lr,batch_size,momentum,weight_decay,augmentation_strength,a_loss_test,b_loss_test,merged_loss_test"
ROWS = [f"{lr},{size},0.9,1e-4,0.5,0.5,0.51,0.48" for lr, size in (("0.01", 8), ("0.02", 16), ("0.04", 32))]


def run_import(folder: Path, content: str | bytes, *more: str) -> int:
    (folder / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return main(["import", str(folder / "t.csv"), "--space", "digits_cnn", "--out", str(folder / "run"), *more])


def test_rows_of_another_length_are_counted_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join([HEADER, ROWS[0], ROWS[1] + ",7", "0.1,8", ROWS[2]])
    assert run_import(tmp_path, text) == 2
    said = capsys.readouterr().err
    assert "t.csv: 2 of 4 rows cannot be used: row 2: must have 8 cells as the heading has, got 9; row 3: " in said
    assert run_import(tmp_path, text, "--drop-missing") == 0
    assert [r["learning_rate"] for r in read_trials(tmp_path / "run").to_pylist()] == [0.01, 0.04]
    (tmp_path / "p.csv").write_text("learning_rate,batch_size\n0.02,16\n0.03\n")
    with pytest.raises(SpecError, match="row 2: must have 2 cells as the heading has, got 1"):
        read_points(tmp_path / "p.csv", load("digits_cnn"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\n\r\n" + t.replace(",", ";"),
        lambda t: "sep=;\n" + t.replace(",", ";"),
        lambda t: "\ufeffsep=|\r\n" + t.replace(",", "|"),
        lambda t: t.replace("\n", "\n   \n"),
        lambda t: t.replace("\n", "\r"),
        lambda t: t.replace("\n", ",\n") + ",",  # each line ends with a delimiter
    ],
)
def test_what_other_programs_put_around_the_rows_is_no_row(tmp_path: Path, change: Callable[[str], str]) -> None:
    assert run_import(tmp_path, change("\n".join([HEADER, *ROWS]))) == 0
    rows = read_trials(tmp_path / "run").to_pylist()
    assert [(r["learning_rate"], r["batch_size"]) for r in rows] == [(0.01, 8), (0.02, 16), (0.04, 32)]


def test_columns_without_names_are_called_by_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(["," + HEADER + ",", *(f"{i},{row},{i}" for i, row in enumerate(ROWS))])
    assert run_import(tmp_path, text) == 0
    assert "not taken: column 1, column 10;" in capsys.readouterr().out


def test_a_file_in_another_encoding_is_named_once_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_import(tmp_path, HEADER.encode("utf-16")) == 2
    assert capsys.readouterr().err == (f"error: {tmp_path / 't.csv'} must be text in UTF-8; save it as `CSV UTF-8`\n")
    assert run_import(tmp_path, "") == 2
    assert capsys.readouterr().err.count("t.csv") == 1


def test_messages_name_rows_of_the_file_also_where_rows_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join([HEADER, "x" + ROWS[0], ROWS[0], ROWS[1], ROWS[0]])
    assert run_import(tmp_path, text, "--drop-missing") == 2
    assert "rows 2 and 4 of t.csv are the same trial" in capsys.readouterr().err


def test_an_outcome_that_is_none_is_a_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join([HEADER + ",outcome", ROWS[0] + ",ok", ROWS[1] + ",okay"])
    assert run_import(tmp_path, text) == 2
    assert "t.csv, row 2: column 'outcome': outcome" in capsys.readouterr().err
    assert run_import(tmp_path, text, "--drop-missing") == 0


@pytest.mark.parametrize("cell", ["9" * 30, "9" * 5000, 2**63, float(2**63)])
def test_numbers_that_do_not_fit_are_refused_where_they_must_be_whole(cell: Any) -> None:
    with pytest.raises(ValueError, match=r"^must be a whole number(?! with)"):
        parse(cell, "int")
    assert parse(cell, "float") == float(cell)


def test_a_table_with_a_huge_number_is_no_internal_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_import(tmp_path, "\n".join([HEADER, ROWS[0], ROWS[1].replace("0.48", "9" * 400)])) == 0
    assert [r["outcome"] for r in read_trials(tmp_path / "run").to_pylist()] == ["ok", "diverged"]
    names = HEADER.split(",")
    table = pa.table({n: [float(v)] for n, v in zip(names, ROWS[0].split(","), strict=True)})
    for column, message in {
        "batch_size": (pa.array([2**63], pa.uint64()), "batch_size must be a whole number below 2^63, got 922"),
        "momentum": (pa.array([date(2024, 1, 5)]), "momentum must be a number, got 2024-01-05"),
    }.items():
        pq.write_table(table.set_column(names.index(column), column, message[0]), tmp_path / "t.parquet")
        out = ["--space", "digits_cnn", "--out", str(tmp_path / "other")]
        assert main(["import", str(tmp_path / "t.parquet"), *out]) == 2
        assert message[1] in capsys.readouterr().err


def test_percentages_dates_and_formulas_are_no_numbers() -> None:
    for cell in ("41%", "02.Jan", "2024-01-05", "=0.02", "\u22120.5", "$5", "1_0", "#DIV/0!"):
        with pytest.raises(ValueError, match=r"^must be a number, got"):
            parse(cell, "float")


def test_an_empty_file_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n \n")
    with pytest.raises(SpecError, match="is empty; its first line must name the columns"):
        read_csv(tmp_path / "t.csv")
