"""Sweeps in an object store: an S3 over real HTTP, whole, failing now and then, away for a while, and lost."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import sweeper
from sweeper import SweepSpec
from sweeper.cli.main import main
from sweeper.errors import SpecError
from sweeper.storage import lease
from sweeper.storage.location import Place, place_of
from sweeper.storage.run_folder import is_running, locked
from sweeper.storage.schema import SCHEMAS
from sweeper.storage.tables import read, read_parts, read_trials
from tests.support.faulty_s3 import FaultyS3, serving
from tests.support.waiting import until

pytestmark = pytest.mark.cluster
TIMES = ("started", "finished", "seconds", "commit", "host")


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_MAX_ATTEMPTS", "2")  # of pyarrow's own, so that ours are needed
        patch.setenv("AWS_RETRY_MODE", "standard")
        patch.setattr(lease, "SETTLE_SECONDS", 0.05)
        with serving("runs") as app:
            yield app


@pytest.fixture
def s3(server: FaultyS3) -> Iterator[FaultyS3]:
    server.seen.clear()
    yield server
    server.share, server.away = 0.0, False


def new(s3: FaultyS3) -> str:
    """Return the URI of a run folder that is not there yet."""
    return f"s3://runs/{uuid.uuid4().hex[:8]}/run{s3.query}"


def sweep(out: str | Path, trials: int = 8, **more: Any) -> sweeper.Results:
    given = {"space": "synthetic", "runner": "inline", "sampler": "random", "trials": trials, **more}
    return sweeper.run(SweepSpec(out=str(out), **given))


def numbers(trials: pa.Table) -> list[dict[str, Any]]:
    keep = [n for n in trials.column_names if not any(t in n for t in TIMES)]
    return trials.select(keep).to_pylist()


def whole(place: Place) -> bool:
    """Whether every part of every table can be read."""
    return all(isinstance(p, pa.Table) for t in SCHEMAS for p in read_parts(place, place.parts(t), t).values())


def test_a_sweep_in_a_bucket_is_that_of_a_folder(
    s3: FaultyS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = new(s3)
    flags = ["--runner", "inline", "--sampler", "random", "--trials", "8"]
    assert main(["run", "synthetic", *flags, "--out", uri]) == 0
    assert f"page:    {uri.partition('?')[0]}/dashboard.html" in capsys.readouterr().out
    here = sweep(tmp_path / "run").run
    assert numbers(read_trials(uri)) == numbers(read_trials(here))
    for table in ("merges", "history"):
        assert read(uri, table).num_rows == read(here, table).num_rows
    assert place_of(uri).has("dashboard.html")
    digest = read_trials(uri)["digest"][0].as_py()
    for command in (
        ["status", uri], ["list", uri], ["best", uri], ["recommend", uri], ["analyse", uri], ["pair", uri, digest],
        ["compare", uri, str(here)], ["export", uri], ["export", uri, "--html", f"s3://runs/pages/a.html{s3.query}"],
        ["extend", uri, "--dry-run"],
    ):  # fmt: skip
        capsys.readouterr()
        assert main(command) == 0, (command, capsys.readouterr())
    assert place_of(uri).has("trials.csv")
    assert place_of(f"s3://runs/pages{s3.query}").has("a.html")
    assert main(["resume", uri, "--runner", "inline", "--trials", "11"]) == 0
    assert numbers(read_trials(uri)) == numbers(sweep(tmp_path / "more", 11).trials)
    capsys.readouterr()
    assert main(["compact", uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == {"trials": 11, "merges": 11, "history": 11, "search": 11}
    assert list(place_of(uri).files("trials")) == ["compacted-000001.parquet"]
    assert numbers(read_trials(uri)) == numbers(read_trials(tmp_path / "more"))
    assert not place_of(uri).has(lease.LEASE_FILE)


def test_requests_that_fail_lose_and_tear_nothing(s3: FaultyS3, tmp_path: Path) -> None:
    uri, s3.share = new(s3), 0.05
    found = sweep(uri, 40)
    s3.share = 0.0
    assert numbers(found.trials) == numbers(sweep(tmp_path / "run", 40).trials)
    assert whole(place_of(uri))
    assert found.trials.num_rows == read(uri, "search").num_rows == 40
    failures = sum(n for kind, n in s3.seen.items() if kind != "good")
    assert failures > 0.02 * s3.seen.total() > 4


def test_a_store_that_is_away_for_a_while_costs_nothing(s3: FaultyS3, tmp_path: Path) -> None:
    uri = new(s3)
    seen: list[int] = []

    def listener(status: sweeper.runner.status.Status) -> None:
        if status.done == 3 and not seen:
            seen.append(1)
            s3.away = True
            threading.Timer(4, lambda: setattr(s3, "away", False)).start()

    spec = SweepSpec(space="synthetic", runner="inline", sampler="random", trials=6, out=uri)
    found = sweeper.run(spec, listener)
    assert numbers(found.trials) == numbers(sweep(tmp_path / "run", 6).trials)
    assert "failed" not in found.trials["outcome"].to_pylist()
    assert s3.seen["dropped"]


def test_a_store_that_is_lost_ends_the_sweep_with_one_line(
    s3: FaultyS3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from sweeper.runner import inline

    monkeypatch.setenv("SWEEPER_STORAGE_SECONDS", "1")
    uri, real, done = new(s3), inline.execute, []

    def execute(*args: Any, **kwargs: Any) -> Any:
        done.append(1)
        s3.away = len(done) == 4
        return real(*args, **kwargs)

    monkeypatch.setattr(inline, "execute", execute)
    command = ["run", "synthetic", "--runner", "inline", "--sampler", "random", "--trials", "6", "--out", uri]
    assert main(command) == 1
    (line,) = [said for said in capsys.readouterr().err.splitlines() if said.startswith("error")]
    assert line.startswith(("error: cannot write s3://runs/", "error: cannot reach s3://runs/"))
    assert f"finished trials are kept, `sweeper resume '{uri}'` continues" in line
    s3.away = False
    monkeypatch.setattr(inline, "execute", real)
    assert whole(place_of(uri))
    assert read_trials(uri).num_rows == 3
    # its lease is still there: the store was away when it was to be removed
    lost = lease._read(place_of(uri))
    assert lost is not None
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.0)
    assert main(["resume", uri, "--runner", "inline"]) == 0
    assert numbers(read_trials(uri)) == numbers(sweep(tmp_path / "run", 6).trials)


def test_one_driver_at_a_time(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = new(s3)
    sweep(uri, 2)
    place = place_of(uri)
    assert not is_running(place)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    with locked(place) as hold:
        lost: list[str] = []
        hold.lost = lost.append
        assert is_running(place)
        first = lease._read(place)
        with pytest.raises(SpecError, match=r"another process is running the sweep in s3://runs/.* \(process \d+ on"):
            sweep(uri, 3)
        assert main(["compact", uri]) == 2
        until(lambda: lease._read(place) != first, lambda: "the lease is not renewed")
        place.write(lease.LEASE_FILE, json.dumps({"owner": "x", "host": "h", "pid": 7, "time": time.time()}).encode())
        until(lambda: lost, lambda: "the loss is not noticed")
        assert lost == [f"process 7 on h took over the sweep in {place.text}"]
    assert is_running(place)  # the other one's lease stays
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.0)
    assert not is_running(place)
    sweep(uri, 3)
    assert read_trials(uri).num_rows == 3


SPACE = """
from dataclasses import replace
from search_spaces import load

SPACE = replace(load("digits_cnn"), doc="mine", fixed={**load("digits_cnn").fixed, "epochs": 1})
"""


def test_workers_of_ray_write_to_the_bucket_too(
    s3: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SPACE)
    uri, s3.share = new(s3), 0.05
    assert main(["run", "mine.py", "--sampler", "random", "--trials", "2", "--workers", "1", "--out", uri]) == 0
    s3.share = 0.0
    place = place_of(uri)
    assert place.has("mine.py")
    kept = {name.partition(".")[0] for name in place.files("weights")}
    assert kept == {r["digest"] for r in read_trials(uri).to_pylist() if r["outcome"] == "ok"} != set()
    assert not place.files("checkpoints")
    (bases,) = (tmp_path / "cache" / "sweeper" / "runs").glob("*/bases/*.safetensors")
    assert bases.stat().st_size
    (tmp_path / "mine.py").unlink()  # the folder stands alone
    capsys.readouterr()
    assert main(["best", uri, "--save", str(tmp_path / "best.safetensors")]) == 0
    assert (tmp_path / "best.safetensors").stat().st_size > 10_000
    assert main(["resume", uri, "--runner", "inline", "--trials", "3"]) == 0
    assert "failed" not in read_trials(uri)["outcome"].to_pylist()
    assert read_trials(uri).num_rows == 3
