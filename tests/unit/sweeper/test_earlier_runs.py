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

DATA = Path(__file__).parents[2] / "data"
RUNS = DATA / "runs-1"
KINDS = sorted(p.name for p in RUNS.iterdir() if p.is_dir())
DIGESTS = json.loads((DATA / "digests.json").read_text())


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


@pytest.mark.parametrize("entry", DIGESTS, ids=[entry["digest"] for entry in DIGESTS])
def test_digests_and_seeds_stay(entry: dict[str, Any]) -> None:
    spec = PairSpec.from_mapping(entry["spec"])
    found = {"digest": spec.digest, "config": spec.config, "base": spec.base_digest, "trunk": spec.trunk_digest}
    assert {**found, "seed": spec.stream("data")} == {k: v for k, v in entry.items() if k != "spec"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_reads_it(kind: str, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = rows_of(RUNS / kind)
    listed = printed(capsys, "list", kind)
    assert {row["digest"] for row in listed} == set(stored)
    status = printed(capsys, "status", kind)
    assert status["trials"] == len(stored)
    best = printed(capsys, "best", kind)
    assert best["best"]["digest"] in stored
    assert printed(capsys, "analyse", kind)
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
    assert len(after) == 12
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
    varying = ("version", "commit", "finished", "started", "source")
    assert [{k: v for k, v in row.items() if k not in varying} for row in again.values()] == [
        {k: v for k, v in row.items() if k not in varying} for row in once.values()
    ]
