"""Budgets: what ends a sweep before its trials do, and how a resume goes on."""

from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper import SweepSpec
from sweeper.analysis.regime import fit_regime
from sweeper.cli.main import main
from sweeper.errors import SpecError
from sweeper.runner.cost.budgets import FEWEST, Budgets


def spec(run: Path | None = None, **more: Any) -> SweepSpec:
    given: dict[str, Any] = {"space": "synthetic", "sampler": "random", "runner": "inline", "trials": 120, "seed": 1}
    return SweepSpec.checked({**given, "out": str(run) if run else None, **more})


def row(seconds: float, device: str) -> dict[str, Any]:
    return {"digest": "d", "config": "c", "outcome": "ok", "device": device, "device_seconds": seconds}


def test_a_sweep_ends_where_the_interval_is_narrow_and_inside(tmp_path: Path) -> None:
    found = sweeper.run(spec(tmp_path, until_interval=3.0))
    assert FEWEST <= found.trials.num_rows < 120
    assert "is narrower than a factor 3" in found.reason
    regime = fit_regime(found.trials, "merged_loss", "paper")
    assert regime.low is not None
    assert regime.high is not None
    assert regime.interior
    assert regime.high / regime.low < 3
    # a resume with the same budget adds nothing; a tighter one goes on; 1 runs all
    count = found.trials.num_rows
    assert sweeper.run(spec(tmp_path, until_interval=3.0)).trials.num_rows == count
    assert sweeper.run(spec(tmp_path, until_interval=1.0)).trials.num_rows == 120


def test_an_interval_stops_nothing_before_there_are_enough_configurations(tmp_path: Path) -> None:
    found = sweeper.run(spec(tmp_path, until_interval=1e9, trials=FEWEST - 1))
    assert found.trials.num_rows == FEWEST - 1
    assert not found.reason


def test_an_optimum_at_the_edge_stops_nothing(tmp_path: Path) -> None:
    low = {"batch_size": {"values": [64]}, "momentum": {"values": [0.0]}, "learning_rate": {"min": 1e-3, "max": 1e-1}}
    found = sweeper.run(spec(tmp_path, until_interval=1e9, trials=40, parameters=low))
    assert found.trials.num_rows == 40  # the best noise is 1e-2, ten times what is tried


def test_gpu_hours_are_those_of_all_trials_on_gpus() -> None:
    budgets = Budgets(spec(max_gpu_hours=1.0), 1e12)
    budgets.add(row(3599.0, "cuda:0"))
    budgets.add(row(1e6, "cpu"))
    assert budgets.spent() == ""
    budgets.add(row(1.0, "cuda:0"))
    assert budgets.spent() == "max_gpu_hours = 1 is reached: 1 GPU-hours are used"
    shared = Budgets(spec(max_gpu_hours=1.0, resources={"gpus_per_pair": 0.25}), 1e12)
    shared.add(row(4 * 3600.0 - 1, "cuda:0"))
    assert shared.spent() == ""


def test_budgets_are_flags_that_change_no_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    given = ["--runner", "inline", "--max-failed", "3", "--max-gpu-hours", "2", "--until-interval", "1"]
    assert main(["run", "synthetic", "--trials", "3", "--sampler", "random", "--out", run, *given]) == 0
    assert main(["resume", run, "--trials", "4", "--runner", "inline", "--until-interval", "2"]) == 0
    assert main(["run", "synthetic", "--trials", "4", "--until-interval", "0.5"]) == 2
    assert "until_interval: must be greater than or equal to 1, got '0.5'" in capsys.readouterr().err
    assert spec(max_gpu_hours=2.0, until_interval=1.5, max_failed=3).identity() == spec().identity()
    with pytest.raises(SpecError, match="max_gpu_hours"):
        spec(max_gpu_hours=0)
