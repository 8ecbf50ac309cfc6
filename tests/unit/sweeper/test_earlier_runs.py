"""Run folders of an earlier version are read, resumed, extended and rerun to the same digits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweeper import load_results
from sweeper.cli.main import main
from trainables.spec import PairSpec

RUNS = Path(__file__).parents[2] / "data" / "runs-1"
TOO_FEW_TRIALS = ("digits", "imported", "interrupted")  # for an optimal noise
KINDS = sorted(p.name for p in RUNS.iterdir() if p.is_dir())


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run folders, in a folder of the test's own."""
    shutil.copytree(RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    """Return the JSON that a command prints."""
    assert main([*command, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def rows_of(run: Path) -> dict[str, dict[str, Any]]:
    """Return the stored rows by digest."""
    return {row["digest"]: row for row in load_results(run).trials.to_pylist()}


def test_the_folders_are_of_every_kind() -> None:
    assert KINDS == [
        "digits", "extended", "finished", "followed", "imported", "interrupted", "objectives", "own_space", "pruned"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_reads_it(kind: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = rows_of(RUNS / kind)
    listed = printed(capsys, "list", kind)
    assert {row["digest"] for row in listed["items"]} == set(stored)
    status = printed(capsys, "status", kind)
    assert status["progress"]["trials"] == len(stored)
    best = printed(capsys, "best", kind)
    assert best["best"]["digest"] in stored
    assert printed(capsys, "analyse", kind)["sweeps"]
    assert main(["recommend", kind]) == (2 if kind in TOO_FEW_TRIALS else 0)
    assert main(["export", kind, "--format", "csv"]) == 0
    assert main(["export", kind, "--html", str(copied / "page.html")]) == 0
    assert (copied / "page.html").stat().st_size > 1_000_000


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("imported", "digits")])
def test_trials_are_rerun_to_the_same_digits(kind: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for digest, row in list(rows_of(RUNS / kind).items())[:3]:
        if row["outcome"] == "ok":
            again = printed(capsys, "pair", kind, digest)
            assert (again["agrees"], again["largest_difference"]) == (True, 0.0)


def test_a_trained_trial_is_rerun_to_the_same_numbers(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = next(iter(rows_of(RUNS / "digits")))
    main(["pair", "digits", digest, "--json"])  # exit code 1 where another processor rounds otherwise
    assert json.loads(capsys.readouterr().out)["largest_difference"] < 1e-3


def test_an_interrupted_sweep_is_resumed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows_of(RUNS / "interrupted")
    assert main(["resume", "interrupted"]) == 0
    after = rows_of(copied / "interrupted")
    assert {digest: after[digest] for digest in before} == before
    whole = ["run", "synthetic", "--trials", "12", "--seed", "5", "--runner", "inline", "--out", "whole", "--yes"]
    assert main([*whole, "--map", "0", "--confirm", "0", "--order", "free"]) == 0
    assert set(after) == set(rows_of(copied / "whole"))


def test_a_design_continues_the_earlier_sequence(copied: Path) -> None:
    assert main(["resume", "extended", "--trials", "11"]) == 0
    new = set(rows_of(copied / "extended")) - set(rows_of(RUNS / "extended"))
    assert new == {"ff43425a9762aa1b", "ed9de1b47d1f81e2", "f7e39dfd14d505ad"}


def test_a_sweep_needs_its_space_file_no_more(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows_of(RUNS / "own_space")
    (copied / "mine.py").unlink()
    assert printed(capsys, "recommend", "own_space")
    assert printed(capsys, "pair", "own_space", next(iter(before)))["agrees"]
    assert main(["resume", "own_space", "--trials", "8"]) == 0
    after = rows_of(copied / "own_space")
    assert len(after) == 8
    assert {digest: after[digest] for digest in before} == before


def test_a_finished_sweep_grows(copied: Path) -> None:
    before = rows_of(RUNS / "finished")
    assert main(["resume", "finished", "--trials", "13"]) == 0
    after = rows_of(copied / "finished")
    assert len(after) == len(before) + 2
    assert {digest: after[digest] for digest in before} == before


def test_an_extended_sweep_is_extended_again(copied: Path) -> None:
    before = rows_of(RUNS / "extended")
    assert main(["extend", "extended", "--repeats", "1", "--noises", "1"]) in (0, 3)
    after = rows_of(copied / "extended")
    assert len(after) > len(before)
    assert {digest: after[digest] for digest in before} == before


def test_a_table_is_imported_to_the_same_rows(copied: Path) -> None:
    assert main(["import", "own.csv", "--space", "digits_cnn", "--out", "again"]) == 0
    once, again = rows_of(RUNS / "imported"), rows_of(copied / "again")
    varying = ("version", "commit", "finished", "started", "source", "schema_version", "spec")
    for new, old in zip(again.values(), once.values(), strict=True):
        # columns and fields of later versions are empty or at their defaults
        assert {k: v for k, v in new.items() if k not in (*varying, *old)} == dict.fromkeys(set(new) - set(old))
        assert {k: new[k] for k in old if k not in varying} == {k: v for k, v in old.items() if k not in varying}
        assert PairSpec.from_json(new["spec"]) == PairSpec.from_json(old["spec"])
