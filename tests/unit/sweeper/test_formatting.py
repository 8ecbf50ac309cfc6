"""Values in messages can be pasted back, in the precision of their column."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cli.main import main
from sweeper.formatting import cell_text, exact_text, is_value, pluralize


@given(st.floats(allow_nan=False))
def test_the_text_of_a_number_reads_back_as_the_number(value: float) -> None:
    assert float(exact_text(value)) == value
    assert is_value(value, cell_text(value))


@given(st.floats(width=32, allow_nan=False))
def test_a_float32_cell_matches_the_digits_of_float32(value: float) -> None:
    assert is_value(value, str(np.float32(value)))
    assert len(cell_text(value)) <= len(exact_text(value))


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        (0.1, "0.1", True), (float(np.float32(0.1)), "0.1", True), (float(np.float32(0.1)), "0.1000001", False),
        (0.1, "0.10000001", False), (0.1, "1e-1", True), (8, "8.0", True), (8, "8.5", False), (0.0, "1e-300", False),
        (True, "true", True), (True, "1", False), ("ok", "ok", True), (None, "0", False), (0.1, "fast", False),
        (math.inf, "inf", True), (1.0, "1e39", False),
    ],
)  # fmt: skip
def test_a_cell_is_compared_in_its_own_precision(value: object, text: str, found: bool) -> None:
    assert is_value(value, text) is found


def test_numbers_are_short_where_they_can_be() -> None:
    assert [exact_text(v) for v in (0.0003, 3.0, 1e-5, 0.123456789, 8, np.float64(1.5), "ok")] == [
        "0.0003", "3", "1e-05", "0.123456789", "8", "1.5", "ok",
    ]  # fmt: skip
    assert cell_text(float(np.float32(0.1))) == "0.1"


def test_where_finds_the_rows_of_a_float32_table_by_every_value_that_its_message_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = [0.01, 0.1, 0.123456789]
    columns = {"lr": rates * 4, "merged_loss_test": [0.4 + 0.01 * i for i in range(12)]}
    shared = {"batch_size": 8, "momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.5}
    table = pa.table({k: pa.array(v, pa.float32()) for k, v in columns.items()})
    pq.write_table(table.append_column("seed", pa.array(range(12))), tmp_path / "t.parquet")
    run = tmp_path / "run"
    fixed = [f for k, v in shared.items() for f in ("--set", f"{k}={v}")]
    assert main(["import", str(tmp_path / "t.parquet"), "--space", "digits_cnn", *fixed, "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["analyse", str(run), "--where", "learning_rate=0.5", "--objective", "merged_loss"]) == 2
    said = capsys.readouterr().err
    named = said.partition("its values are ")[2].strip().split(", ")
    assert named == ["0.01", "0.1", "0.12345679"]
    for value in named:
        assert main(["analyse", str(run), "--where", f"learning_rate={value}", "--objective", "merged_loss"]) == 0


def test_a_count_agrees_with_its_noun_and_its_verb() -> None:
    assert [pluralize(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert [pluralize(n, "entry has", "entries have") for n in (1, 2)] == ["1 entry has", "2 entries have"]
    assert pluralize(12_000, "trial", form=",d") == "12,000 trials"
