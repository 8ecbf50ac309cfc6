"""`sweeper run`: the question before an unfinished sweep continues."""

import io
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.errors import SpecError


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "continues"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_terminal_is_asked_before_an_unfinished_sweep_continues(
    answer: str, continues: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(sweep: Any, callbacks: Any) -> None:
        answered = callbacks.confirm("runs/a\x1b[31m", 3)
        raise SpecError(f"continues: {answered}")

    monkeypatch.setattr("sweeper.runner.run.run_prepared", run)
    monkeypatch.setattr("sys.stdin", _Terminal(answer))
    assert main(["run", "synthetic", "--runner", "inline"]) == 2
    err = capsys.readouterr().err
    question = "runs/a\\u001b[31m holds a part of this sweep; run the remaining 3 trials? [y/N]: "
    assert question in err
    assert f"continues: {continues}" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert main(["run", "synthetic", "--runner", "inline"]) == 2
    assert capsys.readouterr().err == "error: continues: False\n"


def test_the_first_line_of_progress_names_the_stage_and_what_is_not_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "synthetic", "--runner", "inline", "--trials", "12", "--out", str(tmp_path / "run")]) == 0
    unconfirmed, undecided, first, *_ = capsys.readouterr().err.splitlines()
    assert unconfirmed == "12 trials cannot spare fresh pairs to confirm the answer: --trials 18 can"
    assert undecided == (
        "a verdict needs 6 designed noises whose pairs train, and the map of 12 trials has 7: --trials 15 gives it 9"
    )
    assert first.startswith("0/12 trials, map 0/7, 0 running on 1 worker")


@pytest.mark.parametrize(("trials", "more", "said"), [(12, [], True), (18, [], False), (12, ["--confirm", "0"], False)])
def test_a_dry_run_says_what_is_not_confirmed(
    trials: int, more: list[str], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "synthetic", "--trials", str(trials), *more, "--dry-run"]) == 0
    assert ("--trials 18 can" in capsys.readouterr().err) is said


@pytest.mark.parametrize(
    ("trials", "more", "said"),
    [(4, [], True), (12, ["--confirm", "0"], True), (18, [], False), (12, ["--map", "0"], False)],
)
def test_a_dry_run_says_how_many_trials_bring_a_verdict(
    trials: int, more: list[str], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "synthetic", "--trials", str(trials), *more, "--dry-run"]) == 0
    error = capsys.readouterr().err
    assert ("a verdict needs 6 designed noises" in error) is said
    assert ("--trials 15 gives it 9" in error) is said


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_missing_folder_of_data_is_refused(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, out = tmp_path / "gone", tmp_path / "run"
    assert main(["run", "digits_cnn", "--data", str(gone), "--out", str(out), "--runner", "inline", *more]) == 2
    assert capsys.readouterr().err == (
        f"error: data must be a folder that exists, got {gone}; create it, or leave --data out\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(("target", "what"), [("README.md", "another file"), ("runs", "a folder"), ("a/b", "no such")])
def test_what_is_no_sweep_is_refused_with_what_a_sweep_is(
    target: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("# ± 1\n")
    (tmp_path / "runs").mkdir()
    assert main(["run", target]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: a sweep is the name of a space, a space file (.py), or a sweep file: YAML (.yaml)")
    assert f"got {target}, {what}" in error
