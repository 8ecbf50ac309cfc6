"""Compaction: one part per table, the same rows, safe wherever it is cut off."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from sweeper import SweepSpec, run
from sweeper.cli.main import main
from sweeper.errors import StorageError
from sweeper.runner import session
from sweeper.storage.compaction import AUTOMATIC, compact
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import locked
from sweeper.storage.schema import SCHEMAS
from sweeper.storage.tables import joined, read, read_rows, read_trials, write_table
from tests.support.inline_sweeps import sweep
from tests.support.trial_rows import table, trial


def tables(run: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table in an order of their own."""
    return {t: sorted(read(run, t).to_pylist(), key=lambda r: json.dumps(r, sort_keys=True)) for t in SCHEMAS}


def test_one_part_a_table_holds_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path, trials=6)
    before = tables(tmp_path)
    (tmp_path / "trials" / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    capsys.readouterr()
    assert main(["compact", str(tmp_path)]) == 0
    assert "trials   6 parts joined into one" in capsys.readouterr().out
    (tmp_path / "trials" / "torn.parquet").unlink()  # what is no part stays where it is
    assert [p.name for p in (tmp_path / "trials").iterdir()] == ["compacted-000001.parquet"]
    assert tables(tmp_path) == before
    assert main(["compact", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    found = sweep(tmp_path, trials=9)  # a resume counts what was compacted
    assert len(list((tmp_path / "trials").iterdir())) == 4
    assert compact(place_of(tmp_path))["trials"] == 4
    assert [p.name for p in (tmp_path / "trials").iterdir()] == ["compacted-000002.parquet"]
    assert read_trials(tmp_path).equals(found.trials)


def test_a_running_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(tmp_path, trials=3)
    with locked(tmp_path):
        assert main(["compact", str(tmp_path)]) == 2
    assert "another process is running the sweep" in capsys.readouterr().err
    assert len(list((tmp_path / "trials").iterdir())) == 3


def test_it_may_be_cut_off_after_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    sweep(made, trials=4)
    compact(place_of(made))
    sweep(made, trials=6)  # an older compaction and new parts
    before = tables(made)
    real = {"write": Place.write, "remove": Place.remove}
    cut = 0
    while True:
        run, steps = tmp_path / str(cut), []
        shutil.copytree(made, run)

        def step(self: Place, *args: Any, name: str, limit: int = cut, steps: list[str] = steps) -> None:
            if len(steps) == limit:
                raise StorageError("cut off")
            steps.append(name)
            real[name](self, *args)

        monkeypatch.setattr(Place, "write", lambda self, *a, step=step: step(self, *a, name="write"))
        monkeypatch.setattr(Place, "remove", lambda self, *a, step=step: step(self, *a, name="remove"))
        try:
            compact(place_of(run))
        except StorageError:
            cut += 1
        else:
            break
        finally:
            monkeypatch.undo()
        assert tables(run) == before, steps
        compact(place_of(run))
        assert tables(run) == before, steps
    assert cut > 12


def test_a_trial_that_was_run_again_goes_before_its_older_row(tmp_path: Path) -> None:
    old, new = (table([trial("c", None, outcome=outcome)]) for outcome in ("failed", "ok"))
    place, digest = place_of(tmp_path), "c-0"
    write_table(place, "trials", "compacted-000001", old)
    write_table(place, "trials", digest, new, few=True)
    assert read_trials(tmp_path)["outcome"].to_pylist() == ["ok"]
    assert [r["outcome"] for r in read_rows(tmp_path, "trials", [digest, "0" * 16])] == ["ok"]
    compact(place)
    assert read_trials(tmp_path)["outcome"].to_pylist() == ["ok"]
    assert joined({"a/compacted-000002.parquet": new, "a/compacted-000001.parquet": old}, "trials").equals(new)


def test_removals_from_a_store_run_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(tmp_path, trials=3)
    compact(place_of(tmp_path))
    sweep(tmp_path, trials=9)
    before = tables(tmp_path)
    removed: list[str] = []
    together, real = threading.Barrier(2), Place.remove

    def remove(self: Place, name: str) -> None:
        if name.startswith("trials/"):
            removed.append(name)
            if "compacted" not in name:  # six of them, two by two
                together.wait(10)
        real(self, name)

    monkeypatch.setattr(Place, "remove", remove)
    store = Place("s3://runs/a", str(tmp_path), LocalFileSystem(), "s3://runs/a")
    assert compact(store)["trials"] == 7
    assert removed[0] == "trials/compacted-000001.parquet"
    assert tables(tmp_path) == before


def test_a_finished_sweep_that_cannot_be_compacted_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StorageError("cannot write trials: No space left on device")

    monkeypatch.setattr(session, "compact", full)
    seen: list[Any] = []
    spec = SweepSpec(space="synthetic", runner="inline", sampler="random", trials=3, out=str(tmp_path))
    assert run(spec, seen.append).trials.num_rows == 3
    assert seen[-1].warnings["not_compacted"].startswith("cannot write trials: No space left on device; `sweeper comp")


def test_a_large_sweep_compacts_itself(tmp_path: Path) -> None:
    results = sweep(tmp_path, trials=AUTOMATIC)
    assert [p.name for p in (tmp_path / "trials").iterdir()] == ["compacted-000001.parquet"]
    assert read_trials(tmp_path).equals(results.trials)
    assert results.trials.num_rows == AUTOMATIC
