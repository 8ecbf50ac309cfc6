"""A mistyped run folder: every command names the existing folders that are near."""

from pathlib import Path

import pytest

from sweeper.cli.main import main


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("runs/demo", "runs/digits", "first"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "sweep.yaml").write_text("space: synthetic\n")
    (tmp_path / "runs" / "dome").mkdir()  # holds no sweep
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["best", "status", "list", "recommend", "analyse", "resume", "extend", "dashboard", "compare", "compact",
     "export --html x.html"],
)  # fmt: skip
def test_a_mistyped_run_folder_gets_the_nearest_one(
    command: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command.split()
    folders = ["runs/demmo", "first"] if name == "compare" else ["runs/demmo"]
    assert main([name, *folders, *rest]) == 2
    assert capsys.readouterr().err == "error: there is no folder runs/demmo; did you mean runs/demo?\n"


def test_a_folder_in_another_place_is_found_by_its_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "demo"]) == 2
    assert capsys.readouterr().err == "error: there is no folder demo; did you mean runs/demo?\n"


def test_without_a_near_one_the_newest_are_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "zzz"]) == 2
    _, _, named = capsys.readouterr().err.strip().partition("error: there is no folder zzz; there is ")
    assert set(named.split(", ")) == {"runs/demo", "runs/digits", "first"}


def test_an_empty_place_has_no_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["best", "zzz"]) == 2
    assert capsys.readouterr().err == "error: there is no folder zzz\n"
