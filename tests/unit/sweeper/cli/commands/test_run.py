"""`sweeper run`: the question before an unfinished sweep continues."""

import io
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
