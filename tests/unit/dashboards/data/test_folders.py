"""Run folders as they grow: what is read again, what the version tells, several as one."""

from dataclasses import replace

import pyarrow as pa
import pytest

from dashboards.data.folders import Folder, Live, join_runs, open_folders
from sweeper.errors import SpecError
from sweeper.storage import tables
from tests.support.fake_sweep import trial, write_sweep


def test_only_new_parts_are_opened_and_the_version_changes_with_the_content(tmp_path, monkeypatch):
    run = write_sweep(tmp_path / "run", trials=4, budget=9)
    folder = Folder(str(run))
    first = folder.run()
    assert first.tables["trials"].equals(tables.read_trials(run))
    assert folder.run() is first
    opened: list[str] = []
    read_part = tables.read_part
    monkeypatch.setattr(
        tables, "read_part", lambda place, path, table: opened.append(path) or read_part(place, path, table)
    )
    tables.write(run, trial(4))
    second = folder.run()
    assert [p.rsplit("/", 1)[1] for p in opened] == [f"{trial(4).result.digest}.parquet"]
    assert second.tables["trials"].equals(tables.read_trials(run))
    assert second.key != first.key
    assert first.tables["trials"].num_rows == 4  # the earlier moment stays as it was


def test_a_half_written_part_is_said_and_read_once_it_is_whole(tmp_path):
    run = write_sweep(tmp_path / "run", trials=2)
    folder = Folder(str(run))
    folder.run()
    part = run / "trials" / f"{trial(2).result.digest}.parquet"
    tables.write(tmp_path / "whole", trial(2))
    whole = (tmp_path / "whole" / "trials" / part.name).read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    broken = folder.run()
    assert broken.tables["trials"].num_rows == 2
    assert len(broken.skipped) == 1
    assert part.name in broken.skipped[0]
    part.write_bytes(whole)
    mended = folder.run()
    assert (mended.tables["trials"].num_rows, mended.skipped) == (3, ())


def test_a_part_that_went_is_gone(tmp_path):
    run = write_sweep(tmp_path / "run", trials=3)
    folder = Folder(str(run))
    folder.run()
    (run / "trials" / f"{trial(1).result.digest}.parquet").unlink()
    assert folder.run().tables["trials"]["number"].to_pylist() == [0, 2]


def test_several_runs_are_one_without_duplicates(tmp_path):
    a = write_sweep(tmp_path / "a", trials=4, budget=4)
    b = write_sweep(tmp_path / "b", trials=6, budget=6)
    live = Live(open_folders([str(a), str(b)]))
    both = live.run(["a", "b"])
    trials = both.tables["trials"]
    assert trials["number"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert trials["run"].to_pylist() == ["a"] * 4 + ["b"] * 2
    assert both.settings is not None
    assert both.settings["trials"] == 10
    assert both.tables["merges"].num_rows == tables.read(b, "merges").num_rows
    assert live.run(["a", "b"]) is both
    # never silently: what is pooled is said
    (said,) = both.pooled
    assert said.startswith("This page pools 2 sweeps: a (4 trials), b (6 trials).")
    assert live.run(["a"]).pooled == ()


def test_pooled_sweeps_of_two_problems_or_objectives_say_so(tmp_path):
    paths = [write_sweep(tmp_path / name, trials=3) for name in "ab"]
    runs = {p.name: Folder(str(p)).run() for p in paths}
    trials = runs["b"].tables["trials"]
    at = trials.column_names.index("model")
    other = trials.set_column(at, "model", pa.array(["other"] * 3, pa.string()))
    settings = {**runs["b"].settings, "objective": "merged_loss"}
    runs["b"] = replace(runs["b"], tables={**runs["b"].tables, "trials": other}, settings=settings)
    _, task, objective = join_runs(runs).pooled
    assert "differ in task" in task
    assert "with other" in task
    assert objective.startswith("The pooled sweeps differ in objective (a: ")


def test_names_tell_folders_apart_and_a_missing_one_is_a_line(tmp_path):
    for parent in ("x", "y"):
        write_sweep(tmp_path / parent / "run", trials=1)
    assert list(open_folders([str(tmp_path / p / "run") for p in ("x", "y")])) == ["x/run", "y/run"]
    with pytest.raises(SpecError, match="there is no folder"):
        Folder(str(tmp_path / "none")).run()


def test_rows_of_one_trial_come_from_its_own_part(tmp_path):
    run = write_sweep(tmp_path / "run", trials=3)
    digest = trial(1).result.digest
    assert set(Folder(str(run)).rows_of("history", digest)["digest"].to_pylist()) == {digest}
