"""State that is removed, has no room or was lost: the service says so, writes nothing beside it, and makes it anew."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from sweeper.client.models import State
from sweeper.config.yaml_text import write_stored
from sweeper.errors import SpecError
from sweeper.service.api.app import make_api
from sweeper.service.db.sweeps import Entry, NewSweep
from sweeper.service.db.tables import DAY_SECONDS, sweeps
from sweeper.service.scheduler import cancels
from sweeper.service.scheduler.process import Control, Outcome
from sweeper.service.scheduler.rebuild import NOBODY
from sweeper.service.service import Service
from tests.support.real_service import add_done, make_real
from tests.support.service_fakes import HERE

SPEC = {"space": "synthetic", "trials": 4, "runner": "inline", "sampler": "random"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def one(**config: Any) -> Service:
        while made:  # one at a time
            made.pop().close()
        made.append(make_real(tmp_path / "root", **config))
        return made[-1]

    yield one
    while made:
        made.pop().close()


def client_of(service: Service) -> TestClient:
    return TestClient(make_api(service), base_url=HERE, raise_server_exceptions=False)


def lose(service: Service) -> None:
    for file in service.config.folder.glob("service.db*"):
        file.unlink()


def send(service: Service, owner: str = "ann", **keys: Any) -> Entry:
    return service.catalog.add(NewSweep(owner, "synthetic", {**SPEC, **keys}, 4, 4, name="tries", shared=True))[0]


def ready(client: TestClient) -> tuple[int, str]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json().get("detail", "")


@pytest.mark.parametrize("what", ["service.db", ""])
def test_a_removed_file_or_folder_is_reported_and_not_recreated(
    service: Callable[..., Service], tmp_path: Path, what: str
) -> None:
    served = service()
    client, folder = client_of(served), served.config.folder
    entry = send(served)
    assert ready(client) == (200, "")
    lost, aside = folder / what if what else folder, tmp_path / "aside"
    lost.rename(aside)
    name = "database file" if what else "state folder"
    status, said = ready(client)
    assert (status, "was removed while the service ran" in said) == (503, True)
    for method, path in (("POST", "/v1/sweeps"), ("GET", "/v1/me"), ("POST", f"/v1/sweeps/{entry.id}/cancel")):
        answer = client.request(method, path, json=SPEC if path == "/v1/sweeps" else None)
        assert (answer.status_code, answer.json()["detail"].endswith("stop the service")) == (503, True)
        assert str(tmp_path) not in answer.text
    assert name in said or "database file" in said  # the database lies in the folder
    assert not lost.exists()
    aside.rename(lost)
    assert ready(client) == (200, "")
    assert client.get(f"/v1/sweeps/{entry.id}").json()["state"] == "queued"


def test_a_replaced_file_is_not_taken_for_the_old_one(service: Callable[..., Service], tmp_path: Path) -> None:
    served = service()
    client, file = client_of(served), served.config.folder / "service.db"
    file.rename(tmp_path / "aside")
    file.touch()
    assert "was replaced while the service ran" in ready(client)[1]
    assert file.stat().st_size == 0


def test_a_database_that_lost_its_sweeps_is_refused_and_made_anew(service: Callable[..., Service]) -> None:
    served = service()
    done, waiting = add_done(served, owner="ann"), send(served, "bob", max_gpu_hours=2.0).id
    cancelled = send(served).id
    served.catalog.move(cancelled, State.CANCELLED, "cancelled by ann while it waited")
    served.views.conclude(served.catalog.get(done))
    served.catalog.change(waiting, priority=-3)
    served.catalog.on_change(served.catalog.get(waiting))
    before = {sweep: served.catalog.get(sweep) for sweep in (done, waiting, cancelled)}
    lose(served)
    with pytest.raises(SpecError, match=r"lists no sweep, but .* holds the folders of 3: .* --rebuild"):
        service()
    again = service(rebuild=True)
    assert again.rebuilt.startswith("listed 3 sweeps again from their folders; users, tokens")
    for sweep, old in before.items():
        new = again.catalog.get(sweep)
        columns = ("name", "owner", "shared", "spec", "state", "reason", "priority", "created", "key", "budget")
        assert {k: getattr(new, k) for k in columns} == {k: getattr(old, k) for k in columns}
    assert again.views.sweep(again.catalog.get(done)).progress.budget == 12
    assert again.catalog.used("ann", 0.0)[0] == 12  # on the day on which they ran, and once
    again.supervisor.endings.take_up()
    again.supervisor.endings.retry()
    assert again.views.sweep(again.catalog.get(done)).progress.done == 12
    assert again.catalog.used("ann", 0.0)[0] == 12
    assert again.catalog.due("bob").gpu_hours == 2.0
    assert service(rebuild=True).rebuilt.startswith("listed 0 sweeps again from their folders")


def test_what_an_earlier_version_left_is_listed_as_far_as_it_tells(service: Callable[..., Service]) -> None:
    served = service()
    folder = served.config.folder
    ids = [send(served).id for _ in range(3)]
    for sweep, state in zip(ids, ("failed", "", None), strict=True):
        control = Control(folder / "sweeps" / sweep)
        (control.folder / "entry").unlink()
        if state is None:
            (control.folder / "entry").write_text("{")
            continue
        (control.folder / "spec.yaml").write_text(write_stored({**SPEC, "out": "elsewhere", "address": "127.0.0.1:1"}))
        (control.folder / "task").write_text('{"kind": "run", "attempt": 2}')
        if state:
            control.end(Outcome(state, "no trial was successful"), 2)
    lose(served)
    again = service(rebuild=True)
    assert again.rebuilt.startswith("listed 2 sweeps again from their folders; ")
    assert "2 without owner and name" in again.rebuilt
    assert f"cannot read 1 folder: {ids[2]}" in again.rebuilt
    failed, unknown = (again.catalog.get(sweep) for sweep in ids[:2])
    assert (failed.state, failed.reason, failed.owner) == ("failed", "no trial was successful", NOBODY)
    assert (unknown.state, unknown.name, unknown.budget) == ("interrupted", ids[1], 4)
    assert unknown.spec == SPEC
    again.supervisor.resume(unknown.id, "admin")
    assert again.catalog.get(unknown.id).state == "queued"


def test_a_database_from_a_backup_is_served_with_a_warning(
    service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    served = service()
    kept, newer = send(served).id, send(served).id
    with served.catalog.engine.begin() as connection:
        connection.execute(sweeps.delete().where(sweeps.c.id == newer))
    assert service().catalog.counts()["queued"] == 1
    assert "1 sweep has a folder but is not in the database: --rebuild lists them" in caplog.text
    assert kept != newer


def test_sweeps_of_an_earlier_version_are_recorded_by_and_by(service: Callable[..., Service]) -> None:
    served = service()
    sweep = send(served).id
    file = served.config.folder / "sweeps" / sweep / "entry"
    file.unlink()
    with served.catalog.engine.begin() as connection:
        connection.execute(update(sweeps).values(created=1000.5 * DAY_SECONDS))
    served.housekeeping.prune()
    kept = Control(file.parent).row
    assert kept is not None
    assert (kept["owner"], kept["created"]) == ("ann", 1000.5 * DAY_SECONDS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A disk of 40 MB at `root`; call it to fill the disk."""
    root = tmp_path / "root"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", root], capture_output=True)
    if mounted.returncode:  # not root: only this process' files are bounded
        import resource

        bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, bounds[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
        signal.signal(signal.SIGXFSZ, handler)
        return

    def fill() -> None:
        with (root / "fill").open("wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                return

    yield fill
    subprocess.run(["umount", "-l", root], check=True)


def test_what_fills_the_disk_can_be_cancelled(
    service: Callable[..., Service], small_disk: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = service()
    client = client_of(served)
    assert ready(client) == (200, "")
    sweep = send(served).id
    served.catalog.move(sweep, State.STARTING, "its turn", task={"kind": "run", "attempt": 1})
    served.catalog.move(sweep, State.RUNNING, "trials are starting")
    control = served.supervisor.control(sweep)
    (control.folder / "task").write_text('{"kind": "run", "attempt": 1}')
    lock = control._take_lock()
    assert lock is not None
    process = subprocess.Popen(["sleep", "600"], pass_fds=[lock])
    os.pwrite(lock, str(process.pid).encode(), 0)
    os.close(lock)
    try:
        small_disk()
        status, said = ready(client)
        assert (status, "disk" in said) == (503, True)
        for _ in range(2):  # who asks again does no harm
            answer = client.post(f"/v1/sweeps/{sweep}/cancel")
            assert answer.status_code == 503
            assert "is ending, but the cancel cannot be stored" in answer.json()["detail"]
        assert process.wait(20) == -signal.SIGTERM
        answer = client.post("/v1/sweeps", json=SPEC)
        assert (answer.status_code, "full" in answer.json()["detail"]) == (503, True)
        answer = client.post(f"/v1/sweeps/{sweep}/stop")
        assert (answer.status_code, "full" in answer.json()["detail"]) == (503, True)
        served.supervisor.tick()  # the end cannot be written down
        assert served.catalog.get(sweep).state == "running"
    finally:
        process.kill()
        process.wait()
    (served.config.folder.parent / "fill").unlink(missing_ok=True)
    if not os.path.ismount(served.config.folder.parent):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    served.supervisor.tick()
    entry = served.catalog.get(sweep)
    assert (entry.state, entry.reason) == ("cancelled", "cancelled by local")
    assert ready(client) == (200, "")


def test_a_word_that_comes_after_the_signal_counts(service: Callable[..., Service]) -> None:
    served = service()
    sweep = send(served).id
    served.catalog.move(sweep, State.STARTING, "its turn", task={"kind": "run", "attempt": 1})
    control = served.supervisor.control(sweep)
    told: list[str] = []

    class Quick(Control):
        def signal(self, number: int, group: bool = False) -> None:
            told.append("signal")
            Control.end(self, Outcome(State.INTERRUPTED, "a signal ended the process"), 1)

        def halt(self, kind: str, cause: str, attempt: int) -> None:
            told.append("halt")
            Control.halt(self, kind, cause, attempt)

    served.supervisor.cancels = cancels.Cancels(served.catalog, lambda _: Quick(control.folder))
    served.supervisor.cancel(sweep, "ann")
    served.supervisor.tick()
    assert told == ["signal", "halt"]
    assert cast(Any, served.catalog.get(sweep)).state == "cancelled"
