"""TensorBoard: the event files of a sweep hold its curves, scores and settings; an export writes the same bytes."""

from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.storage.tables import read
from tests.support.inline_sweeps import sweep


def load(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def hparams(events: Any) -> dict[str, Any]:
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    values = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    return {k: v.string_value or v.number_value for k, v in values.items()}


def test_a_sweep_writes_one_run_for_each_trial(tmp_path: Path) -> None:
    results = sweep(tmp_path / "run", trials=3, track="tensorboard")
    rows = {r["digest"]: r for r in results.trials.to_pylist()}
    assert "ok" in {r["outcome"] for r in rows.values()}
    folder = tmp_path / "run" / "tensorboard"
    runs = sorted(p.name for p in folder.iterdir() if p.name != "tracked")
    assert runs == sorted(f"{r['number']:05d}-{d[:8]}" for d, r in rows.items())
    assert sorted(p.name for p in (folder / "tracked").iterdir()) == sorted(rows)
    for digest, row in rows.items():
        events = load(folder / f"{row['number']:05d}-{digest[:8]}")
        settings = hparams(events)
        assert settings["learning_rate"] == row["learning_rate"]
        assert settings["outcome"] == row["outcome"]
        if row["outcome"] != "ok":
            assert "score/merged_loss_val" not in events.Tags()["scalars"]
            continue
        (score,) = events.Scalars("score/merged_loss_val")
        assert score.step == row["number"]
        assert score.value == pytest.approx(row["merged_loss_val"], rel=1e-6)
        history = [r for r in read(results.run, "history").to_pylist() if r["digest"] == digest and r["member"] == "a"]
        curve = events.Scalars("training_a/val_loss")
        assert [(e.step, e.value) for e in curve] == [(r["step"], pytest.approx(r["val_loss"])) for r in history]


def test_an_export_holds_the_trials_of_a_finished_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = sweep(tmp_path / "run", trials=3)
    target = tmp_path / "events"
    assert main(["export", str(tmp_path / "run"), "--format", "tensorboard", "--out", str(target)]) == 0
    assert f"3 trials in {target}" in capsys.readouterr().out
    runs = sorted(target.glob("0*"))
    assert [p.name.partition("-")[2] for p in runs] == [d[:8] for d in results.trials["digest"].to_pylist()]
    assert load(runs[0]).Scalars("score/merged_loss_val")
    assert main(["export", str(tmp_path / "run"), "--format", "tensorboard"]) == 0
    assert len(list((tmp_path / "run" / "tensorboard").glob("0*/events*"))) == 3
    assert main(["export", str(tmp_path / "run"), "--format", "tensorboard", "--table", "merges"]) == 2
    assert "--table is for csv and parquet" in capsys.readouterr().err
