from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper import SpecError, SweepSpec
from sweeper.cli.main import main
from sweeper.config.prepared import PreparedSweep, prepare
from sweeper.runner.cost.estimate import estimate_cost, predict_seconds
from sweeper.runner.status import QUIET


def _sweep(**keys: Any) -> PreparedSweep:
    return prepare(SweepSpec.checked({"space": "digits_label_noise", "runner": "inline", "trials": 60, **keys}))


def _row(batch_size: int, per_step: float, rest: float, once: float) -> dict[str, Any]:
    steps = 720 // batch_size * 8
    train = steps * per_step
    return {"batch_size": batch_size, "examples": 720, "steps": steps, "seconds_train": train, "seconds_base": once,
            "seconds_data": once, "device_seconds": train + rest + 2 * once}  # fmt: skip


def test_the_time_of_a_trial_is_that_of_its_steps_over_the_batch_sizes() -> None:
    def per_step(batch_size: float) -> float:
        return 1e-3 + 1e-5 * batch_size

    rows = [_row(b, per_step(b), rest=0.3, once=5.0) for b in (8, 128)]
    sizes = np.round(np.exp(np.random.default_rng(0).uniform(math.log(8), math.log(128), 20_000)))
    expected = np.mean([720 // int(b) * 8 * per_step(b) for b in sizes]) + 0.3
    assert predict_seconds(_sweep(), rows) == pytest.approx(expected, rel=0.02)


def test_choices_and_a_fixed_batch_size_count_as_they_are() -> None:
    fixed = _sweep(fixed={"batch_size": 32})
    assert predict_seconds(fixed, [_row(32, 2e-3, 0.1, 0.0)]) == pytest.approx(22 * 8 * 2e-3 + 0.1)
    choices = _sweep(parameters={"batch_size": {"values": [8, 72]}})
    rows = [_row(b, 1e-3, 0.0, 0.0) for b in (8, 72)]
    assert predict_seconds(choices, rows) == pytest.approx((90 + 10) / 2 * 8 * 1e-3)
    steps = _sweep(fixed={"batch_size": 32, "steps": 50})
    assert predict_seconds(steps, [_row(32, 2e-3, 0.0, 0.0)]) == pytest.approx(50 * 8 * 2e-3 / 8)


def test_every_trial_from_scratch_pays_for_its_bases() -> None:
    fixed = _sweep(fixed={"batch_size": 32, "protocol": "scratch", "merges": ["linear"]})
    assert predict_seconds(fixed, [_row(32, 2e-3, 0.1, 5.0)]) == pytest.approx(22 * 8 * 2e-3 + 0.1 + 5.0)


def test_a_proxy_trains_a_share_and_scores_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    row = _row(32, 2e-3, 0.1, 0.0)
    assert predict_seconds(_sweep(fixed={"batch_size": 32}), [row], 0.25) == pytest.approx(22 * 8 * 2e-3 / 4 + 0.1)
    assert main(["run", "digits_label_noise", "--trials", "60", "--proxy", "0.25", "--dry-run"]) == 0
    assert "(map 36 at 0.25 of the budget, search 12, confirm 12)" in " ".join(capsys.readouterr().out.split())


def test_a_dry_run_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "digits_label_noise", "--trials", "60", "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("60 configurations, 60 trials (map 36, search 12, confirm 12)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "batch_size=100000"], "batch_size"),
        (["--set", "merges=[linear,tiess]"], "did you mean ties?"),
        (["--graphs", "on"], "graphs on needs a GPU, got cpu; use auto or off"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "digits_label_noise", *arguments, "--out", str(tmp_path / "run"), "--runner", "inline"]
    refused = []
    for more in ([], ["--dry-run"]):
        assert main([*command, *more]) == 2
        refused.append(capsys.readouterr().err)
    assert said in refused[0]
    assert refused[1] == refused[0]


def test_a_pilot_runs_two_trials_and_leaves_nothing(tmp_path: Path) -> None:
    sweep = _sweep(fixed={"epochs": 1}, out=str(tmp_path / "run"), repeats=2)
    found = estimate_cost(sweep, True, QUIET)
    assert (found.configurations, found.trials, found.gpu_hours) == (60, 120, 0.0)
    assert found.seconds_per_trial
    assert found.device_seconds == pytest.approx(120 * found.seconds_per_trial)
    assert found.wall_seconds
    assert found.wall_seconds >= (found.device_seconds or math.inf)
    assert list(tmp_path.iterdir()) == []


def test_a_pilot_that_diverges_says_so(tmp_path: Path) -> None:
    sweep = _sweep(fixed={"epochs": 1, "learning_rate": 1e6}, out=str(tmp_path / "run"))
    with pytest.raises(SpecError, match="did not train to its end, so its time says nothing: child A diverged"):
        estimate_cost(sweep, True, QUIET)


def test_a_pilot_goes_with_a_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "digits_label_noise", "--pilot"]) == 2
    assert "--pilot goes with --dry-run" in capsys.readouterr().err
