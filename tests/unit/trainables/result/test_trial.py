from __future__ import annotations

from dataclasses import fields

import pytest

from trainables.noise import NOISE
from trainables.pair.record import make_failed_output, now
from trainables.result import (
    MODELS_SCORED,
    PHASES,
    SCORES,
    SPLITS,
    HistoryRow,
    MergeRow,
    Outcome,
    PlaneRow,
    TrialResult,
    columns_of,
    trial_columns,
)
from trainables.runtime import Runtime
from trainables.spec import PairSpec

TABLES = {"trials": trial_columns(), "merges": columns_of(MergeRow), "history": columns_of(HistoryRow)}


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_unique_typed_and_documented(table: str) -> None:
    columns = TABLES[table]
    names = [c.name for c in columns]
    assert len(names) == len(set(names))
    assert all(c.doc and c.kind in ("str", "int", "float") for c in columns)
    assert not [c.name for c in columns if c.kind == "str" and c.unit]
    # a target's unit is that of the sweep's noise definition
    assert {c.name for c in columns if c.kind == "float" and not c.unit} <= {"noise_target"}


def test_every_field_of_a_row_is_a_column() -> None:
    nested = {"scores", "landscape", "noises", "seconds"}
    assert {f.name for f in fields(TrialResult) if not f.metadata} == nested
    assert all(f.metadata for row in (MergeRow, HistoryRow, PlaneRow) for f in fields(row))


def test_score_columns_are_the_documented_product() -> None:
    wanted = {f"{who}_{what}_{s}" for who in MODELS_SCORED for what in ("loss", "accuracy") for s in SPLITS}
    wanted |= {f"gain_{k}_{what}_{s}" for k in ("mean", "best") for what in ("loss", "accuracy") for s in SPLITS}
    wanted |= {f"barrier_{k}_{what}_{s}" for k in ("frankle", "entezari") for what in ("loss", "error") for s in SPLITS}
    wanted |= {f"{who}_normalised_accuracy_{s}" for who in ("merged", "chosen") for s in ("val", "test")}
    wanted |= {f"{who}_normalised_accuracy_worst_{s}" for who in ("merged", "chosen") for s in ("val", "test")}
    wanted |= {f"chosen_normalised_accuracy_{task}_{s}" for task in "abcdefgh" for s in ("val", "test")}
    wanted |= {f"{task}_{what}_{s}" for task in "cdefgh" for what in ("loss", "accuracy") for s in ("val", "test")}
    wanted |= {
        f"barrier_tasks_{k}_{what}_{s}"
        for k in ("mean", "worst") for what in ("loss", "error") for s in ("val", "test")
    }  # fmt: skip
    wanted |= {f"gain_tasks_loss_{s}" for s in SPLITS}
    assert {c.name for c in SCORES} == wanted
    assert len(SCORES) == len(wanted)


def test_a_row_has_exactly_the_columns_in_order() -> None:
    spec = PairSpec("digits", "small_cnn", learning_rate=0.05, batch_size=16, momentum=0.9)
    output = make_failed_output(spec, Runtime(), RuntimeError("two\n  lines"), now())
    row = output.result.to_row()
    assert list(row) == [c.name for c in trial_columns()]
    assert row["outcome"] == Outcome.FAILED == "failed"
    assert row["outcome_detail"] == "RuntimeError: two lines"
    assert all(row[c.name] is None for c in SCORES)
    assert row["noise_paper"] == NOISE["paper"].predict(vars(spec))
    assert row["noise_smith_le"] is None  # N is not known before the data is read
    assert {row[f"seconds_{p}"] for p in PHASES} == {0.0}
    assert PairSpec.from_json(row["spec"]) == spec
    assert (output.merges, output.history, output.weights) == ((), (), None)
