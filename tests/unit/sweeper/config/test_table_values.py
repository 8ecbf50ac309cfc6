"""Cells of tables: one parser for `import` and `--enqueue`, bad rows are counted and shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from search_spaces import load
from sweeper.cli.main import main
from sweeper.config.points import convert_points, read_points
from sweeper.config.table_values import parse
from sweeper.errors import SpecError
from sweeper.storage.tables import read_trials

HEADER = "lr,batch_size,momentum,weight_decay,augmentation_strength,a_loss_test,b_loss_test,merged_loss_test"
ROW = "0.01,8,0.9,1e-4,0.5,0.5,0.51,0.48"


@pytest.mark.parametrize(
    ("cell", "kind", "value"),
    [
        ("0.5", "float", 0.5), (" 1e-3 ", "float", 1e-3), (Decimal("0.25"), "float", 0.25), (7, "float", 7),
        ("inf", "float", math.inf), ("-Infinity", "float", -math.inf), ("nan", "float", None), ("", "float", None),
        ("N/A", "int", None), ("8", "int", 8), (8.0, "int", 8), ("8.0", "int", 8), (Decimal("64"), "int", 64),
        ("true", "bool", True), (False, "bool", False), (5, "str", "5"), ("nan", "str", "nan"),
        ("0.1", None, 0.1), ("12", None, 12), ("sgd", None, "sgd"), (True, None, True),
    ],
)  # fmt: skip
def test_a_cell_has_the_value_that_its_column_holds(cell: Any, kind: str | None, value: Any) -> None:
    found = parse(cell, kind)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        ("1,234.5", "float", "decimal point and no thousands separators, got '1,234.5'"),
        ("0,5", "float", "decimal point and no thousands separators, got '0,5'"),
        ("1.234,5", "float", "decimal point and no thousands separators"),
        ("1 000", "int", "must be a whole number with no thousands separators"),
        ("1\u202f000", "float", "no thousands separators"),
        ("1_000", "float", "must be a number, got '1_000'"), ("0x10", "int", "must be a whole number, got '0x10'"),
        ("1:30", "float", "must be a number, got '1:30'"), ("fast", "float", "must be a number, got 'fast'"),
        (True, "float", "must be a number, got True"), ("true", "int", "must be a whole number, got 'true'"),
        (8.5, "int", "must be a whole number, got 8.5"), (math.inf, "int", "must be a whole number, got inf"),
        ([0.1, 0.2], "float", "must be a number, got a list [0.1, 0.2]"),
        ({"a": 1}, "str", "must be text, got a record"),
        (b"0.1", "float", "must be a number, got bytes"), ([1], None, "must be a number or text, got a list"),
        (1, "bool", "must be true or false, got 1"),
    ],
)  # fmt: skip
def test_other_cells_are_refused_with_the_rule_and_the_value(cell: Any, kind: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=r"^must be") as caught:
        parse(cell, kind)
    assert message in str(caught.value)


def import_csv(folder: Path, text: str, *more: str) -> int:
    (folder / "t.csv").write_bytes(text.encode())
    return main(["import", str(folder / "t.csv"), "--space", "digits_cnn", "--out", str(folder / "run"), *more])


def enqueue_csv(folder: Path, text: str) -> list[dict[str, Any]]:
    (folder / "t.csv").write_bytes(text.encode())
    space = load("digits_cnn")
    return convert_points(space, read_points(folder / "t.csv", space))


@pytest.mark.parametrize(
    "change", [lambda t: "\ufeff" + t, lambda t: t.replace(",", ";"), lambda t: t.replace(",", "\t")]
)
def test_a_byte_order_mark_and_other_delimiters_are_taken_by_both(tmp_path: Path, change: Callable[[str], str]) -> None:
    assert import_csv(tmp_path, change(f"{HEADER}\n{ROW}\n")) == 0
    (row,) = read_trials(tmp_path / "run").to_pylist()
    assert (row["learning_rate"], row["batch_size"], row["merged_loss_test"]) == (0.01, 8, 0.48)
    assert enqueue_csv(tmp_path, change("learning_rate,batch_size\n0.02,16\n")) == [
        {"learning_rate": 0.02, "batch_size": 16}
    ]


def test_both_refuse_the_same_cells_with_row_column_and_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ROW.replace("0.01", '"0,01"')
    assert import_csv(tmp_path, f"{HEADER}\n{ROW}\n{bad}\n") == 2
    said = capsys.readouterr().err
    assert "t.csv, row 2: column 'lr': learning_rate must be a number with a decimal point" in said
    assert "got '0,01'" in said
    assert said.count("\n") == 1
    with pytest.raises(SpecError, match=r"row 2: column 'learning_rate' must be a number with a .*'0,01'"):
        enqueue_csv(tmp_path, 'learning_rate,batch_size\n0.02,16\n"0,01",16\n')


def test_all_bad_rows_are_counted_and_five_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROW.replace("0.48", cell) for cell in ["0.4", *(f'"{i},5"' for i in range(7)), "0.3"]]
    rows[2] = rows[2].replace("0.9", "1.5")  # a second fault of the same row
    text = "\n".join([HEADER, *(r.replace("0.01", f"0.0{i + 1}") for i, r in enumerate(rows))])
    assert import_csv(tmp_path, text) == 2
    said = capsys.readouterr().err
    assert "t.csv: 7 of 9 rows cannot be used: row 2: column 'merged_loss_test'" in said
    assert "row 6:" in said
    assert "row 7:" not in said
    assert "and 2 more; fix it, or import the other rows by --drop-missing" in said
    assert not (tmp_path / "run").exists()
    assert import_csv(tmp_path, text, "--drop-missing") == 0
    assert [r["merged_loss_test"] for r in read_trials(tmp_path / "run").to_pylist()] == [0.4, 0.3]
    assert "left out 7 rows that cannot be used" in " ".join(capsys.readouterr().out.split())


def test_a_table_with_nothing_but_bad_rows_is_refused_also_with_drop_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_csv(tmp_path, f"{HEADER}\n{ROW.replace('0.9', '1.5')}\n", "--drop-missing") == 2
    assert "row 1: momentum must lie in [0, 1), got 1.5" in capsys.readouterr().err


def test_pairs_without_any_merged_loss_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ROW.replace("0.48", cell) for cell in ("nan", "")]
    assert import_csv(tmp_path, "\n".join([HEADER, rows[0], rows[1].replace("0.01", "0.1")])) == 0
    assert [r["outcome"] for r in read_trials(tmp_path / "run").to_pylist()] == ["diverged", "diverged"]
    assert "column 'merged_loss_test' is empty: pairs without merged_loss_test count as diverged" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_split_without_a_loss_does_not_hide_the_split_with_one(tmp_path: Path) -> None:
    assert import_csv(tmp_path, f"{HEADER},merged_loss_val\n{ROW},\n") == 0
    assert [r["outcome"] for r in read_trials(tmp_path / "run").to_pylist()] == ["ok"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[0.9], [0.5]]), "momentum must be a number, got a list [0.9]"),
        (pa.array([True, False]), "momentum must be a number, got True"),
        (pa.array([{"a": 1}, {"a": 2}]), "momentum must be a number, got a record"),
    ],
)
def test_typed_columns_that_hold_no_numbers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: pa.Array, message: str
) -> None:
    names = HEADER.split(",")
    table = pa.table({n: [float(v), float(v)] for n, v in zip(names, ROW.split(","), strict=True)})
    table = table.set_column(names.index("momentum"), "momentum", column)
    pq.write_table(table, tmp_path / "t.parquet")
    out = ["--space", "digits_cnn", "--out", str(tmp_path / "run")]
    assert main(["import", str(tmp_path / "t.parquet"), *out]) == 2
    assert message in capsys.readouterr().err


def test_decimals_and_numbers_as_text_mean_the_same_in_every_column(tmp_path: Path) -> None:
    names = HEADER.split(",")
    plain = {n: [float(v)] for n, v in zip(names, ROW.split(","), strict=True)}
    kinds: dict[str, Callable[[float], Any]] = {"text": str, "decimal": lambda v: Decimal(str(v))}
    found: list[dict[str, Any]] = []
    for name, kind in {"plain": float, **kinds}.items():
        pq.write_table(pa.table({n: [kind(v) for v in c] for n, c in plain.items()}), tmp_path / f"{name}.parquet")
        out = ["--space", "digits_cnn", "--out", str(tmp_path / name)]
        assert main(["import", str(tmp_path / f"{name}.parquet"), *out]) == 0
        found += read_trials(tmp_path / name).drop_columns(["outcome_detail"]).to_pylist()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("value", [True, False, "true"])
def test_a_truth_is_no_number_in_a_list_of_configurations_either(tmp_path: Path, value: Any) -> None:
    from search_spaces._space import SpaceError

    with pytest.raises(SpaceError, match="configuration 1 of enqueue: momentum must be"):
        convert_points(load("digits_cnn"), [{"momentum": value}])
