"""Records of trials for trackers: settings, scores and curves from the stored rows."""

import math
from dataclasses import asdict

import pytest

from sweeper import SweepSpec
from sweeper.runner.tracking.record import make_record
from tests.support.fake_sweep import trial

SPEC = SweepSpec(space="synthetic", objective="gain_mean")


def test_a_record_holds_settings_scores_and_curves() -> None:
    output = trial(3)
    row = output.result.to_row()
    record = make_record(SPEC, None, "demo", row, [asdict(r) for r in output.history])
    assert record.name == f"00003-{row['digest'][:8]}"
    assert record.number == 3
    assert record.started == 1735689600.0
    assert record.settings["learning_rate"] == row["learning_rate"]
    assert record.settings["number"] == 3
    assert record.scores["gain_mean_loss_val"] == row["gain_mean_loss_val"]
    assert record.scores["noise_paper"] == row["noise_paper"]
    assert [step for step, _ in record.curves] == [45 * epoch for epoch in range(1, 9)]
    assert record.curves[0][1]["training_b/val_loss"] == 1.0
    assert record.curves[1][1]["training_a/val_loss"] == 0.5
    assert "training_a/trace_sigma" not in record.curves[0][1]  # not measured


def test_a_trial_without_scores_has_none_and_one_of_an_extension_no_number() -> None:
    row = {**trial(3).result.to_row(), "number": None, "merged_loss_val": math.inf, "merged_loss_test": None}
    record = make_record(SPEC, None, "demo", row, [])
    assert record.name.startswith("extend-")
    assert record.number == 0
    assert "merged_loss_val" not in record.scores
    assert "merged_loss_test" not in record.scores
    assert record.curves == ()


@pytest.mark.parametrize(("started", "seconds"), [("yesterday", 0.0), ("1970-01-01T00:00:07+00:00", 7.0)])
def test_the_start_of_an_imported_trial_may_be_any_text(started: str, seconds: float) -> None:
    assert make_record(SPEC, None, "demo", {**trial(3).result.to_row(), "started": started}, []).started == seconds
