"""A service of an earlier version is upgraded while its sweeps run: database, rights of files, tokens, cookies."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sweeper.service.api.app import make_api
from sweeper.service.db.tables import VERSION
from sweeper.service.scheduler.process import Control, Outcome
from sweeper.service.service import Service
from tests.support.real_service import make_real
from tests.support.service_fakes import HERE

DATA = Path(__file__).parents[4] / "data"
TOKEN = f"swp_0123456789ab_{'Q' * 43}"
DONE, RUNNING, QUEUED = (f"synthetic-{i:010x}" for i in range(3))
OLD_SPEC = "space: synthetic\ntrials: 4\nrunner: inline\nsampler: random\nmax_seconds: 1e5\n"


@pytest.fixture(params=range(1, VERSION))
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The state folder of an earlier version, which others may read."""
    folder = tmp_path / "root" / ".service"
    control = folder / "sweeps" / RUNNING
    control.mkdir(parents=True)
    control.joinpath("spec.yaml").write_text(OLD_SPEC)
    control.joinpath("task").write_text('{"kind": "run", "attempt": 1, "seen": 0}')
    control.joinpath("begun").write_text("{}")
    database = sqlite3.connect(folder / "service.db")
    database.executescript((DATA / f"service-{request.param}.sql").read_text())
    database.close()
    for path, mode in ((folder, 0o755), (folder / "sweeps", 0o755), (folder / "service.db", 0o644)):
        path.chmod(mode)
    return folder


@pytest.fixture
def process(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The process of the sweep that runs, which the earlier version started."""
    lock = Control(state / "sweeps" / RUNNING)._take_lock()
    assert lock is not None
    started = subprocess.Popen(["sleep", "600"], pass_fds=[lock])
    os.pwrite(lock, str(started.pid).encode(), 0)
    os.close(lock)
    yield started
    started.kill()
    started.wait()


@pytest.fixture
def service(state: Path, process: subprocess.Popen[bytes]) -> Iterator[Service]:
    made = make_real(state.parent, auth=True, max_running=1)
    yield made
    made.close()


def test_state_of_an_earlier_version_is_taken_over(
    service: Service, state: Path, process: subprocess.Popen[bytes]
) -> None:
    client = TestClient(make_api(service), base_url=HERE, raise_server_exceptions=False)
    assert client.get("/readyz").status_code == 200
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert client.get("/v1/me", headers=bearer).json()["user"] == "anna"
    listed = client.get("/v1/sweeps", headers=bearer).json()["items"]
    assert [(one["id"], one["state"]) for one in listed] == [
        (QUEUED, "queued"), (RUNNING, "running"), (DONE, "done"),
    ]  # fmt: skip
    for old in (f"sweeper_token={TOKEN}", f"{service.users.cookie}={TOKEN}"):  # a browser signs in anew
        assert client.get("/v1/me", headers={"Cookie": old}).status_code == 401
    session = service.users.sign_in(TOKEN)
    assert client.get("/v1/me", headers={"Cookie": f"{service.users.cookie}={session}"}).status_code == 200
    rights = {path: path.stat().st_mode & 0o077 for path in (state, state / "sweeps", state / "service.db")}
    assert set(rights.values()) == {0}
    service.supervisor.tick()
    assert service.catalog.get(RUNNING).state == "running"  # adopted
    service.housekeeping.prune()
    assert all(Control(state / "sweeps" / sweep).row for sweep in (DONE, RUNNING, QUEUED))
    Control(state / "sweeps" / RUNNING).end(Outcome("done", "all trials have run"), 1)
    process.kill()
    process.wait()
    assert service.supervisor._check_end(RUNNING)
    assert (service.catalog.get(RUNNING).state, service.catalog.get(RUNNING).deaths) == ("done", 0)


def test_an_upgraded_service_whose_database_is_lost_is_made_anew(state: Path, process: subprocess.Popen[bytes]) -> None:
    killed = make_real(state.parent, auth=True)
    killed.housekeeping.prune()
    names = {sweep: killed.catalog.get(sweep).name for sweep in (DONE, RUNNING, QUEUED)}
    killed.ownership.close()
    killed.catalog.engine.dispose()
    os.close(killed._lock)
    for file in state.glob("service.db*"):
        file.unlink()
    again = make_real(state.parent, auth=True, rebuild=True, max_running=1)
    try:
        assert {sweep: again.catalog.get(sweep).name for sweep in names} == names
        again.supervisor.tick()
        assert again.catalog.get(RUNNING).state == "running"
        assert not again.users.has_admin()
    finally:
        again.close()
