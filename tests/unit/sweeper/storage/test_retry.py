"""Storage that fails: tried again where that helps, one clear line where not, nothing torn, no trial marked failed."""

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from sweeper.cli.main import main
from sweeper.config.space import corners, load_space
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError, StorageError
from sweeper.runner import jobs
from sweeper.runner.jobs import Job, execute
from sweeper.storage import retry
from sweeper.storage.checkpoints import checkpoints_of, clear, on_node
from sweeper.storage.location import Place, file_of, place_of
from sweeper.storage.retry import is_full, is_passing
from sweeper.storage.tables import read_trials
from tests.support.inline_sweeps import digests, sweep
from trainables.runtime import Runtime
from trainables.trial import run_trials

FLAGS = ("--runner", "inline", "--sampler", "random", "--trials", "6")


def stored(folder: Path) -> Place:
    """Return a place that is spoken to as an object store is."""
    return Place("s3://runs/a", str(folder), LocalFileSystem(), "s3://runs/a?region=x")


def lost(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between attempts, which take no time here."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return slept


def test_what_passes_is_tried_again_for_a_bounded_time(naps: list[float]) -> None:
    left = [lost(errno.ESTALE)] * 5

    def do() -> str:
        if left:
            raise left.pop()
        return "done"

    assert retry.retry(do, 60, remote=False) == "done"
    assert len(naps) == 5
    assert naps[-1] > naps[0]

    def never() -> None:
        raise OSError("AWS Error NETWORK_CONNECTION")

    naps.clear()
    with pytest.raises(OSError, match="NETWORK"):
        retry.retry(never, 120, remote=True)
    assert 100 < sum(naps) <= 120
    assert max(naps) <= retry.BACKOFF.longest


@pytest.mark.parametrize(
    "error",
    [lost(errno.ENOSPC), lost(errno.EDQUOT), lost(errno.EACCES), lost(errno.ENOENT), OSError("AWS Error ACCESS_DENIED"),
     OSError("AWS Error NO_SUCH_BUCKET during PutObject")],
    ids=str,
)  # fmt: skip
def test_what_stays_is_not_tried_again(error: OSError, naps: list[float]) -> None:
    assert not is_passing(error, remote=True)

    def do() -> None:
        raise error

    with pytest.raises(OSError, match=r".+"):
        retry.retry(do, 120, remote=True)
    assert not naps


def test_a_full_disk_is_known_by_its_text_too() -> None:
    assert is_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(RuntimeError("line 28"))


def test_a_full_disk_ends_the_sweep_and_a_resume_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, real, parts = tmp_path / "run", Path.write_bytes, []

    def full(self: Path, data: Any) -> int:
        parts.append(self)
        if len(parts) > 14:
            real(self, bytes(data)[:10])
            raise lost(errno.ENOSPC)
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["run", "synthetic", *FLAGS, "--out", str(run)]) == 1
    (line,) = [said for said in capsys.readouterr().err.splitlines() if said.startswith("error")]
    assert line.endswith(f"No space left on device; finished trials are kept, `sweeper resume {run}` continues")
    monkeypatch.undo()
    assert not [p for p in run.rglob("*") if ".tmp" in p.parts and p.is_file()]
    rows = read_trials(run).to_pylist()
    assert 0 < len(rows) < 6
    assert "failed" not in {r["outcome"] for r in rows}
    assert main(["resume", str(run), "--runner", "inline"]) == 0
    assert digests(sweep(run, trials=6)) == digests(sweep(tmp_path / "whole", trials=6))


def test_a_trial_that_cannot_be_written_did_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SweepSpec(space="synthetic")
    space = load_space(spec)
    some = space.build({n: getattr(d, "high", None) or d.choices[0] for n, d in space.knobs.items()})

    def full(*_: Any) -> Any:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(jobs, "run_trials", full)
    with pytest.raises(StorageError, match=rf"^cannot write what trial {some.digest} needs: .*No space left"):
        execute(Job(0, (some,), {}), Runtime(), tmp_path)
    assert read_trials(tmp_path).num_rows == 0


def test_a_mounted_folder_that_is_away_for_a_moment_begins_the_trial_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naps: list[float]
) -> None:
    space = load_space(SweepSpec(space="synthetic"))
    job, run = Job(0, (next(corners(space)),), {}), tmp_path / "run"
    base = str(run / "bases" / "one.safetensors")
    errors: list[Exception] = [OSError(errno.ESTALE, "Stale file handle", base)] * 3

    def sometimes(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return run_trials(*args)

    monkeypatch.setattr(jobs, "run_trials", sometimes)
    (row,) = execute(job, Runtime(), run)
    assert row["outcome"] != "failed", row["outcome_detail"]
    assert not errors
    assert len(naps) >= 3
    naps.clear()
    # what stays away ends the sweep, not the trial; what is no matter of the run folder is the trial's
    errors[:] = [OSError(errno.ESTALE, "Stale file handle", base)] * 99
    with pytest.raises(StorageError, match=r"cannot reach what trial .* Stale file handle"):
        execute(job, Runtime(), run)
    assert 100 < sum(naps) <= 120
    errors[:] = [OSError(errno.EIO, "Input/output error", "/data/images")] * 99
    assert execute(job, Runtime(), run)[0]["outcome"] == "failed"
    errors[:] = [FileNotFoundError(errno.ENOENT, "No such file", base)]
    assert execute(job, Runtime(), run)[0]["outcome"] == "failed"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a//b", ".", "", "a\\b", "trials/../x"])
def test_names_stay_in_the_run_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    for place in (place_of(tmp_path / "run"), stored(tmp_path / "run")):
        for do in (place.has, place.read_bytes, place.remove, lambda n, p=place: p.write(n, b"x")):
            with pytest.raises(SpecError, match="must stay in the run folder"):
                do(name)
    assert [p.name for p in tmp_path.rglob("*")] == ["run"]


def test_a_uri_names_its_folder_plainly() -> None:
    for uri in ("s3://runs/a/../b", "s3://runs/%2e%2e/b", "file:///runs/../etc"):
        with pytest.raises(SpecError, match=r"a URI must name its folder without \.\."):
            place_of(uri)
    with pytest.raises(SpecError, match="a place must not hold credentials") as error:
        place_of("s3://me:hush@runs/a")
    assert "hush" not in str(error.value)


def test_a_google_uri_is_understood() -> None:
    place = place_of("gs://anonymous@runs/a/b?endpoint_override=127.0.0.1:9&scheme=http")
    assert (place.path, place.store.type_name, place.name) == ("runs/a/b", "gcs", "b")
    assert place.uri.endswith("?endpoint_override=127.0.0.1:9&scheme=http")


def test_a_file_beside_its_uri(tmp_path: Path) -> None:
    place, name = file_of((tmp_path / "a b.csv").as_uri())
    assert (place.local, name) == (tmp_path, "a b.csv")


def test_the_same_operations_here_and_in_a_store(tmp_path: Path) -> None:
    for place in (place_of(tmp_path / "here"), stored(tmp_path / "there")):
        Path(place.path).mkdir()
        assert place.read_bytes("a/b") is None
        assert (place.entries(), place.files("a"), place.has("a/b")) == ([], {}, False)
        Path(place.path, "a").mkdir()  # a store has no folders; this one's file system does
        place.write("a/b", b"one")
        place.write("a/b", b"two")
        place.write_file("a/c", lambda path: path.write_bytes(b"three"))
        assert (place.read_bytes("a/b"), place.read_text("a/c")) == (b"two", "three")
        assert (list(place.files("a")), place.entries()) == (["b", "c"], ["a"])
        assert place.fetch("a/c", tmp_path / "got" / "c")
        assert (tmp_path / "got" / "c").read_bytes() == b"three"
        assert not place.fetch("a/d", tmp_path / "got" / "d")
        place.remove("a/b")
        place.remove("a/b")
        assert list(place.files("a")) == ["c"]


def test_checkpoints_are_carried_between_nodes(tmp_path: Path) -> None:
    place = stored(tmp_path / "store")
    (tmp_path / "store" / "checkpoints").mkdir(parents=True)
    nodes = [on_node(Runtime(cache=str(tmp_path / name)), place) for name in ("one", "two")]
    assert nodes[0].bases != nodes[1].bases
    first, second = (checkpoints_of(place, runtime, "abc") for runtime in nodes)
    assert first is not None
    assert second is not None
    first.fetch()
    first.folder.mkdir(parents=True)
    mine = first.folder / "abc-a.ckpt"
    mine.write_bytes(b"step 10")
    first.keep({"checkpoint": str(mine)})
    first.keep({"rung": 1})
    place.write("checkpoints/other.ckpt", b"another trial's")
    second.fetch()
    assert [p.name for p in second.folder.iterdir()] == ["abc-a.ckpt"]
    assert (second.folder / "abc-a.ckpt").read_bytes() == b"step 10"
    # what the store has does not stay on a node, and what a killed process left there goes after a day
    assert not list(first.folder.iterdir())
    left, others = second.folder / ".old.ckpt.0123", second.folder / "new.ckpt"
    left.write_bytes(b"")
    os.utime(left, (0, 0))
    others.write_bytes(b"")
    assert second.wrap(lambda _: "done", lambda _: None) == "done"
    assert list(second.folder.iterdir()) == [others]
    second.drop()
    assert list(place.files("checkpoints")) == ["other.ckpt"]
    local = place_of(tmp_path)
    assert on_node(Runtime(), local) == Runtime()
    assert checkpoints_of(local, replace(Runtime(), checkpoints="x"), "abc") is None


def test_processes_of_other_nodes_carry_their_checkpoints_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = stored(tmp_path / "store")
    for name in ("checkpoints", "trials", "merges", "history", "weights"):
        (tmp_path / "store" / name).mkdir(parents=True)
    monkeypatch.setattr(jobs, "place_of", lambda _: place)
    space = load_space(SweepSpec(space="synthetic"))
    some = next(corners(space))
    seen: list[Any] = []

    def elsewhere(specs: Any, runtime: Runtime, report: Any) -> Any:
        name = f"{some.digest}.ckpt"
        place.write(f"checkpoints/{name}", b"step 10")
        report({"checkpoint": f"/of/another/node/{name}"})
        seen.extend(place.files("checkpoints"))
        return run_trials(specs, runtime, report)

    (row,) = execute(Job(0, (some,), {}), Runtime(cache=str(tmp_path / "node")), "s3://runs/a", trials=elsewhere)
    assert row["outcome"] != "failed", row["outcome_detail"]
    assert seen == [f"{some.digest}.ckpt"]
    assert not place.files("checkpoints")


@pytest.mark.parametrize("remote", [False, True])
def test_checkpoints_of_written_trials_do_not_stay(tmp_path: Path, remote: bool) -> None:
    place = stored(tmp_path) if remote else place_of(tmp_path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("abc.ckpt", "abc.trunk.ckpt", "def.ckpt"):
        (folder / name).write_bytes(b"step 10")
    if not remote:  # a store shows no unfinished files
        (folder / ".abc.ckpt.0123").write_bytes(b"of a writer that was killed")
    clear(place, ["abc", "123"])
    assert [p.name for p in folder.iterdir()] == ["def.ckpt"]
    clear(place, ["abc", "def"])
    assert not list(place.files("checkpoints"))
    assert remote or not folder.exists()
    clear(place, ["abc"])


def test_patience_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_STORAGE_SECONDS", "soon")
    with pytest.raises(StorageError, match="must be a number of seconds, got 'soon'"):
        place_of("runs").patient()
