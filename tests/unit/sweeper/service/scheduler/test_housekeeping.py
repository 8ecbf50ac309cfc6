"""What is written down stays bounded, and a server that has lost its database ends."""

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from sweeper.client.models import Quota, State
from sweeper.config.resources import Resources
from sweeper.service.db.audit import Audit
from sweeper.service.db.landing import Landing
from sweeper.service.db.ownership import TakenError
from sweeper.service.db.sweeps import Catalog, NewSweep
from sweeper.service.policy.quotas import WINDOW_SECONDS
from sweeper.service.scheduler.housekeeping import Housekeeping, trim
from tests.support.databases import opened
from tests.support.trial_rows import table, trial

DAY = 86400.0


class FakeOwnership:
    def __init__(self) -> None:
        self.error: TakenError | None = None

    def renew(self) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(opened(tmp_path), lambda: 1000 * DAY)


def keeping(catalog: Catalog, state: Path, **more: Any) -> Housekeeping:
    given = {"quota": lambda _: Quota(), "stop": lambda *_: None, "audit_seconds": 400 * DAY, **more}
    return Housekeeping(catalog, cast(Any, FakeOwnership()), state, **given)


def test_the_end_of_a_long_log_is_kept_for_whoever_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("ab", buffering=0) as process:
        process.write(b"".join(b"line %d\n" % i for i in range(1000)))
        trim(file, 10_000, 100)
        assert file.stat().st_size > 8000
        trim(file, 5000, 100)
        process.write(b"last\n")
    lines = file.read_bytes().split(b"\n")
    assert lines[-3:] == [b"line 999", b"last", b""]
    assert lines[0].startswith(b"line 98")
    assert file.stat().st_size < 110


def test_what_is_old_is_dropped(catalog: Catalog, tmp_path: Path) -> None:
    for age in (399, 401):
        Audit(catalog.engine, lambda age=age: (1000 - age) * DAY).write("ann", "submit_sweep", str(age), "", 202)
    sweep = catalog.add(NewSweep("ann", "x", {}, 2, 2))[0].id
    for i, age in enumerate((WINDOW_SECONDS - DAY, WINDOW_SECONDS + DAY)):
        then = Landing(catalog.engine, sweep, Resources(), lambda age=age: 1000 * DAY - age)
        then.take(table([trial(f"c{i}", 0.1)]))
    folder = tmp_path / "sweeps" / sweep
    folder.mkdir(parents=True)
    (folder / "log").write_bytes(b"x" * (5 << 20))
    (tmp_path / "sweeps" / "other").mkdir()
    keep = keeping(catalog, tmp_path)
    keep.tick()
    assert [e.target for e in Audit(catalog.engine).entries()] == ["399"]
    assert catalog.used("ann", 0.0)[0] == 1
    assert (folder / "log").stat().st_size <= 1 << 20
    Audit(catalog.engine, lambda: 0.0).write("ann", "submit_sweep", "old", "", 202)
    keep.tick()  # not again so soon
    assert len(Audit(catalog.engine).entries()) == 2


def test_a_tick_stops_what_is_beyond_a_quota(catalog: Catalog, tmp_path: Path) -> None:
    sweep = catalog.add(NewSweep("ann", "x", {}, 2, 2))[0].id
    catalog.move(sweep, State.STARTING, "")
    stopped: list[str] = []
    keeping(catalog, tmp_path, quota=lambda _: Quota(gpu_hours=0.0), stop=lambda s, _: stopped.append(s)).tick()
    assert stopped == [sweep]


def test_a_server_whose_database_another_has_taken_ends(catalog: Catalog, tmp_path: Path) -> None:
    lost = threading.Event()
    keep = keeping(catalog, tmp_path, lost=lost.set)
    cast(FakeOwnership, keep.ownership).error = TakenError("another server uses the database")
    keep.start()
    assert lost.wait(10)
    keep.close()
