"""Ends of sweeps: what a run folder shows is stored, now or once its store is back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, delete

from sweeper.client.models import SweepRecord
from sweeper.errors import SpecError
from sweeper.service.db.sweeps import Entry, UnknownSweepError
from sweeper.service.db.tables import sweeps
from sweeper.service.scheduler import finalise, ray_address
from sweeper.service.scheduler.process import Control
from tests.support.databases import opened
from tests.support.supervisor_rig import Rig


@pytest.fixture(scope="module")
def engine(database: None, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return opened(tmp_path_factory.mktemp("database"))


@pytest.fixture
def rig(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path, engine)
    monkeypatch.setattr(Control, "start", lambda control, task, spec, env: made.start(control, task, spec))
    yield made
    for lock in made.locks.values():
        os.close(lock)
    with engine.begin() as connection:
        connection.execute(delete(sweeps))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of what is tried again; `now` can be set."""
    made = SimpleNamespace(now=1000.0)
    for module in (finalise, ray_address):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_results_are_stored_once_the_store_is_back(rig: Rig, clock: SimpleNamespace) -> None:
    first, second = rig.send(), rig.send()
    rig.supervisor.tick()
    rig.views.away, rig.views.trials = True, 4
    for sweep in (first, second):
        rig.ends(sweep, "done", "all trials have run")
    rig.supervisor.tick()
    assert [rig.state(s) for s in (first, second)] == ["done", "done"]
    assert rig.catalog.get(first).summary is None
    retry = rig.supervisor.endings.retry
    clock.now += 11
    retry()  # in vain
    rig.views.away = False
    clock.now += 11
    retry()
    assert rig.catalog.get(second).summary["progress"]["trials"] == 4  # its turn came first
    assert rig.catalog.get(first).summary is None
    clock.now += 10
    retry()
    entry = rig.catalog.get(first)
    assert entry.summary["progress"]["trials"] == 4
    assert "unread" not in entry.task
    assert not rig.supervisor.endings._due


def test_the_next_server_stores_the_results(rig: Rig) -> None:
    kept, resumed, gone = rig.send(), rig.send(), rig.send()
    rig.views.away, rig.supervisor.queue.most = True, 3
    rig.supervisor.tick()
    for sweep in (kept, resumed, gone):
        rig.ends(sweep, "done", "all trials have run")
    rig.supervisor.tick()
    rig.again()
    rig.views.trials = 4
    rig.supervisor.endings.take_up()
    assert rig.supervisor.endings._due.keys() == {kept, resumed, gone}
    rig.supervisor.resume(resumed, "ann")
    rig.supervisor.remove(gone)
    rig.supervisor.endings.retry()
    assert rig.catalog.get(kept).summary["progress"]["trials"] == 4
    assert rig.catalog.get(resumed).summary is None
    rig.supervisor.tick()
    assert "unread" not in rig.catalog.get(resumed).task
    rig.again()
    rig.supervisor.endings.take_up()
    assert not rig.supervisor.endings._due


@pytest.mark.parametrize("error", [SpecError("unknown space 'gone'"), UnknownSweepError.of("a")])
def test_one_folder_that_cannot_be_read_keeps_no_other_from_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: SpecError
) -> None:
    wrong, other = rig.send(), rig.send()
    rig.supervisor.tick()
    conclude = rig.views.conclude

    def failing(entry: Entry) -> SweepRecord:
        if entry.id == wrong:
            raise error
        return conclude(entry)

    monkeypatch.setattr(rig.views, "conclude", failing)
    for sweep in (wrong, other):
        rig.ends(sweep, "done", "all trials have run")
    rig.supervisor.tick()
    assert rig.catalog.get(wrong).task["unread"]
    assert rig.catalog.get(other).summary is not None


@pytest.mark.parametrize("ended", [True, False])
def test_results_of_a_sweep_that_is_cancelled_in_the_queue_are_stored(
    rig: Rig, clock: SimpleNamespace, ended: bool
) -> None:
    sweep = rig.send()
    rig.supervisor.tick()
    rig.views.away, rig.views.trials, rig.supervisor.queue.most = True, 4, 0
    rig.ends(sweep, *(("done", "all trials have run") if ended else ()))
    rig.supervisor.tick()
    if ended:
        rig.supervisor.resume(sweep, "ann")
        clock.now += 30
        rig.supervisor.endings.retry()
    assert rig.supervisor.cancel(sweep, "ann").task["unread"]
    rig.again()
    rig.views.trials = 4
    rig.supervisor.endings.take_up()
    rig.supervisor.endings.retry()
    entry = rig.catalog.get(sweep)
    assert (entry.state, entry.summary["progress"]["trials"]) == ("cancelled", 4)
    assert "unread" not in entry.task


def test_who_never_ran_has_nothing_to_be_stored(rig: Rig) -> None:
    sweep = rig.send()
    assert "unread" not in rig.supervisor.cancel(sweep, "ann").task
    assert not rig.supervisor.endings._due


def test_a_row_that_nobody_can_judge_does_not_keep_a_sweep_from_its_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = rig.send()
    rig.supervisor.tick()
    monkeypatch.setattr(rig.views, "conclude", lambda _: 1 / 0)
    rig.ends(sweep, "done", "all trials have run")
    rig.supervisor.tick()
    assert rig.state(sweep) == "done"
    assert "ZeroDivisionError" in caplog.text
