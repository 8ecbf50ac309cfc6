"""`export --format optuna`: a study that Optuna reads, with parameters, values, states, constraints and attributes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from sweeper.cli.main import main
from sweeper.config.prepared import prepare
from sweeper.runner.tracking.optuna_study import _cover, make_study_trials
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.schema import SCHEMAS
from sweeper.storage.space_data import known_space
from sweeper.storage.tables import read, read_trials
from tests.support.inline_sweeps import altered, sweep


def load(file: Path) -> optuna.Study:
    storage = f"sqlite:///{file}"
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def test_a_study_holds_every_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(spec: Any, result: Any) -> Any:
        if result.repeat:
            return replace(result, outcome="failed", outcome_detail="a bug", scores={})
        return replace(result, step_seconds=0.5)

    altered(monkeypatch, fail)
    objectives = ["gain_mean", "merged_accuracy"]
    results = sweep(tmp_path / "run", trials=5, repeats=2, objective=objectives, max_step_time=1.0, max_failed=99)
    assert main(["export", str(tmp_path / "run"), "--format", "optuna", "--out", str(tmp_path / "a.db")]) == 0
    assert f"10 trials in {tmp_path / 'a.db'}; `optuna-dashboard sqlite:///{tmp_path}/a.db`" in capsys.readouterr().out
    study = load(tmp_path / "a.db")
    assert study.study_name == "run"
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MAXIMIZE"]
    assert study.metric_names == objectives
    assert study.user_attrs["space"] == "synthetic"
    space = prepare(stored_spec(tmp_path / "run")).space
    rows = results.trials.to_pylist()
    assert len(study.trials) == len(rows) == 10
    for trial, row in zip(study.trials, rows, strict=True):
        assert trial.user_attrs["digest"] == row["digest"]
        assert trial.user_attrs["number"] == row["number"]
        assert trial.user_attrs["noise_paper"] == row["noise_paper"]
        assert trial.params == {name: row[name] for name in space.knobs}
        assert trial.distributions == dict(space.knobs)
        assert trial.state == (TrialState.COMPLETE if row["outcome"] == "ok" else TrialState.FAIL)
        if row["outcome"] == "ok":
            assert trial.values == [row["gain_mean_loss_val"], row["merged_accuracy_val"]]
            assert trial.constraints["step_time"] == pytest.approx(-0.693, abs=1e-3)
        else:
            assert trial.user_attrs["outcome_detail"]
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_an_export_replaces_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path / "run", trials=2)
    command = ["export", str(tmp_path / "run"), "--format", "optuna"]
    assert main(command) == 0
    study = tmp_path / "run" / "study.db"
    before = study.read_bytes()
    capsys.readouterr()
    assert main(command) == 2
    assert capsys.readouterr().err == (
        f"error: {study} exists, and an export replaces no study; choose another --out\n"
    )
    assert study.read_bytes() == before
    assert main([*command, "--out", str(tmp_path / "no" / "a.db")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    assert main([*command, "--out", "s3://bucket/a.db"]) == 2
    assert "--out must be a file on this machine" in capsys.readouterr().err


def test_pruned_trials_have_the_values_of_their_rungs(tmp_path: Path) -> None:
    sweep(tmp_path / "run", trials=2)
    spec, trials = stored_spec(tmp_path / "run"), read_trials(tmp_path / "run")
    rows = [{**row, "outcome": "pruned"} for row in trials.to_pylist()]
    rung = dict.fromkeys(SCHEMAS["rungs"].names, None) | {"digest": rows[0]["digest"], "merged_loss_val": 0.5}
    rungs = [{**rung, "step": step} for step in (10, 20)]
    first, second = make_study_trials(
        spec,
        known_space(spec).space,
        pa.Table.from_pylist(rows, schema=trials.schema),
        pa.Table.from_pylist(rungs, schema=read(tmp_path / "run", "rungs").schema),
    )
    assert first.state == TrialState.PRUNED
    assert first.intermediate_values == {10: 0.5, 20: 0.5}
    assert second.intermediate_values == {}


@pytest.mark.parametrize(
    ("knob", "value", "covering"),
    [
        (FloatDistribution(0.1, 1.0, log=True), 0.5, FloatDistribution(0.1, 1.0, log=True)),
        (FloatDistribution(0.1, 1.0, log=True), 2.0, FloatDistribution(0.1, 2.0, log=True)),
        (FloatDistribution(0.1, 1.0, log=True), 0.0, None),
        (IntDistribution(8, 64), 4, IntDistribution(4, 64)),
        (IntDistribution(8, 64, step=8), 12, IntDistribution(8, 64)),
        (CategoricalDistribution(("a", "b")), "b", CategoricalDistribution(("a", "b"))),
        (CategoricalDistribution(("a", "b")), "c", None),
    ],
)
def test_a_range_grows_to_hold_a_value_of_an_extension(knob: Any, value: Any, covering: Any) -> None:
    assert _cover(knob, value) == covering
