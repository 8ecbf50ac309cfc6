from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.small_trials import digits_spec, python
from trainables.pair.run import main, run_pair
from trainables.result import trial_columns
from trainables.runtime import Runtime


@pytest.mark.ray
def test_a_fresh_process_prints_the_same_numbers(tmp_path: Path) -> None:
    spec = digits_spec(batch_size=64)
    (tmp_path / "spec.json").write_text(spec.to_json())
    args = ("-W", "error", "-X", "importtime", "-m", "trainables.pair", str(tmp_path / "spec.json"))
    done = python(*args, PYTHONHASHSEED="7")
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "torch" in loaded
    # a whole trial needs none of these; pandas, where it is installed, loads pyarrow by way of scikit-learn
    foreign = {"ray", "optuna", "plotly", "pydantic", "sweeper", "dashboards", "search_spaces"}
    # timm loads wandb where it is installed, and wandb loads pydantic
    assert not loaded & (foreign - {"pydantic"} if "wandb" in loaded else foreign)
    row = json.loads(done.stdout)
    assert list(row) == [c.name for c in trial_columns()]
    here = run_pair(spec, Runtime()).result.to_row()
    free = {"device_seconds", "step_seconds", "started", "commit"} | {k for k in row if k.startswith("seconds_")}
    assert {k: v for k, v in row.items() if k not in free} == {k: v for k, v in here.items() if k not in free}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dataset": "digits"}', "error: a pair spec must have model, learning_rate, batch_size; got only dataset"),
        ("[]", "error: a pair spec must be a mapping of fields, got []"),
        ("no json", "error: a pair spec must be JSON: "),
        (digits_spec(model="cnn").to_json(), "error: unknown model 'cnn'; did you mean small_cnn?"),
        (digits_spec(trainable="pairs").to_json(), "error: unknown trainable 'pairs'; did you mean pair?"),
        (digits_spec(batch_size=1000).to_json(), "error: batch_size must be <= the 720 training examples, got 1000"),
    ],
    ids=range(6),
)
def test_bad_specs_are_one_line_and_exit_2(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.json").write_text(text)
    assert main([str(tmp_path / "spec.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_a_missing_file_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err
