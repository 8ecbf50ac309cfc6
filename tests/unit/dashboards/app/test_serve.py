from pathlib import Path

import pytest

from sweeper.cli.main import main


def test_a_folder_without_a_sweep_is_refused_before_anything_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_socket(host: str, port: int) -> None:
        raise AssertionError("it listens")

    monkeypatch.setattr("dashboards.app.serve.open_socket", open_socket)
    (tmp_path / "empty").mkdir()
    assert main(["dashboard", str(tmp_path / "empty")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "holds no sweep; name the folder that `sweeper run --out` wrote" in line
