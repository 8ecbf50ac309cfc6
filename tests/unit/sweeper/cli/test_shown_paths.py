"""Paths in what people read: relative to the working directory where they lie below it."""

import json
from pathlib import Path

import pytest

from sweeper.cli.commands.inspect import format_saved
from sweeper.cli.main import main
from sweeper.formatting import show_path

RUN = "run synthetic --runner inline --sampler qmc --trials 10 --objective gain_mean --out runs/a"
# each says where something is, or names the run in a command
COMMANDS = (
    RUN,
    "status runs/a",
    "best runs/a",
    "analyse runs/a --noise linear",
    "extend runs/a --repeats 1 --noises 1 --runner inline",
    "export runs/a --format parquet",
    "export runs/a --format optuna",
    "export runs/a --html page.html",
)


def test_a_path_is_relative_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert show_path("runs/a") == show_path(tmp_path / "here" / "runs" / "a") == "runs/a"
    assert show_path(tmp_path / "here") == "."
    assert show_path(tmp_path / "there") == str(tmp_path / "there")
    assert show_path("s3://bucket/runs/a") == "s3://bucket/runs/a"


def test_no_output_spells_out_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        capsys.readouterr()
        assert main(command.split()) == 0
        said = capsys.readouterr()
        assert str(tmp_path) not in said.out + said.err, command
    assert format_saved({"saved": str(tmp_path / "best.safetensors")}) == [f"{'saved:':<21}best.safetensors"]
    capsys.readouterr()
    assert main(["best", "runs/a"]) == 0
    text = capsys.readouterr().out
    assert f"{'results:':<21}runs/a\n{'page:':<21}runs/a/dashboard.html\n" in text
    assert main(["best", "runs/a", "--json"]) == 0  # a script may change its folder
    assert json.loads(capsys.readouterr().out)["run"] == str(tmp_path / "runs" / "a")
