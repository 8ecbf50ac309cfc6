"""Sweeps that wait for Ray or for a quota, and that nobody waits while the supervisor does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, delete

from sweeper.client.models import Quota, State
from sweeper.errors import AwayError, SpecError
from sweeper.service.db.sweeps import StateError
from sweeper.service.db.tables import sweeps
from sweeper.service.scheduler import finalise, ray_address
from sweeper.service.scheduler.process import Control
from sweeper.storage.location import Place
from tests.support.databases import opened
from tests.support.supervisor_rig import Rig
from tests.support.waiting import PATIENCE, until


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


def test_sweeps_wait_for_a_ray_that_does_not_start(
    rig: Rig, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []

    def find() -> str:
        asked.append(clock.now)
        raise SpecError("Ray did not start on this machine: no space")

    rig.find = find
    first, second, other = rig.send("ray"), rig.send("ray"), rig.send()
    told: list[str] = []
    rig.catalog.on_change = lambda entry: told.append(entry.id) if entry.state == "queued" else None
    rig.until(other, State.STARTING)  # it does not wait for a Ray that it does not need
    for sweep in (first, second):
        entry = rig.catalog.get(sweep)
        reason = "waiting for Ray, trying again: Ray did not start on this machine: no space"
        assert (entry.state, entry.reason) == ("queued", reason)
    assert sorted(told) == sorted([first, second])
    assert [row.state for row in rig.catalog.history(first)] == ["queued"]
    assert "no space; sweeps wait, next try in 10 s" in caplog.text
    for seconds in (9.0, 1.5, 19.0, 1.5):
        clock.now += seconds
        rig.supervisor.tick()
        settle(rig)
    assert [round(t - asked[0], 1) for t in asked] == [0.0, 10.5, 31.0]
    rig.find = lambda: "127.0.0.1:7"
    clock.now += 41
    rig.until(first, State.STARTING)
    assert "address: 127.0.0.1:7" in rig.specs[first]
    assert "address" not in rig.specs[other]
    assert not rig.supervisor.queue.ray.trouble


def test_sweeps_that_waited_for_ray_start_once_it_runs(rig: Rig) -> None:
    def find() -> str:
        raise SpecError("no space")

    rig.find = find
    first, second = rig.send("ray"), rig.send("ray")
    rig.supervisor.tick()
    settle(rig)
    rig.supervisor.tick()
    assert rig.catalog.get(second).reason.endswith("no space")
    rig.find, rig.supervisor.queue.most, rig.supervisor.queue.ray._due = lambda: "127.0.0.1:7", 1, 0.0
    rig.until(first, State.STARTING)
    assert (rig.state(second), rig.catalog.get(second).reason) == ("queued", "")


def test_a_sweep_without_gpu_hours_of_its_own_waits_while_others_may_use_all(rig: Rig) -> None:
    rig.supervisor.quota = rig.supervisor.queue.quota = lambda _: Quota(gpu_hours=10.0)
    free, bounded = rig.send(), rig.send()
    rig.catalog.change(bounded, due_gpu_seconds=36000.0)
    rig.supervisor.tick()
    assert (rig.state(free), rig.state(bounded)) == ("queued", "starting")
    rig.ends(bounded, "done", "all trials have run")
    rig.until(free, State.STARTING)
    assert "max_gpu_hours: 10.0" in rig.specs[free]


def settle(rig: Rig) -> None:
    until(lambda: not rig.supervisor.queue.ray._searching)


def test_nobody_waits_while_ray_starts(rig: Rig) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def find() -> str:
        begun.set()
        assert go_on.wait(PATIENCE)
        return "127.0.0.1:7"

    rig.find = find
    running, held, wrong = rig.send(), rig.send("ray"), rig.send("ray")
    later = rig.send()
    rig.supervisor.tick()
    assert begun.wait(PATIENCE)
    rig.supervisor.tick()
    assert [rig.state(s) for s in (running, held, later)] == ["starting", "queued", "queued"]  # it keeps its place
    assert rig.supervisor.stop(running, "ann").state == "stopping"
    assert rig.supervisor.cancel(wrong, "ann").state == "cancelled"
    assert rig.supervisor.queue.ray._searching  # Ray still starts
    go_on.set()
    rig.until(held, State.STARTING)
    assert rig.state(later) == "queued"


def test_nobody_waits_while_a_folder_is_read_or_deleted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, other, old = rig.send(), rig.send(), rig.send()
    rig.supervisor.cancel(old, "ann")
    rig.supervisor.tick()
    rig.ends(ended, "done", "all trials have run")
    rig.views.slow = slow = threading.Event()
    clearing, cleared = threading.Event(), threading.Event()

    def clear(_: Place) -> None:
        clearing.set()
        cleared.wait(PATIENCE)

    monkeypatch.setattr(Place, "clear", clear)
    threads = [
        threading.Thread(target=rig.supervisor.tick),
        threading.Thread(target=rig.supervisor.remove, args=(old,)),
    ]
    for thread in threads:
        thread.start()
    assert clearing.wait(PATIENCE)
    try:
        assert rig.supervisor.cancel(other, "ann").state == "stopping"
        assert rig.supervisor.stop(ended, "ann").state == "stopping"
        with pytest.raises(StateError, match="is being deleted"):
            rig.supervisor.resume(old, "ann")
        with pytest.raises(StateError, match="is being deleted"):
            rig.supervisor.remove(old)
        assert all(thread.is_alive() for thread in threads)  # both still wait for their folders
    finally:
        slow.set()
        cleared.set()
        for thread in threads:
            thread.join()
    assert rig.catalog.get(ended).reason == "all trials have run"
    with pytest.raises(ValueError, match="there is no sweep"):
        rig.catalog.get(old)


def test_nobody_waits_while_the_folder_of_a_sweep_with_a_quota_is_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.supervisor.quota = lambda _: Quota(gpu_hours=10.0)
    sweep, looks = rig.send(), list[bool]()

    def look() -> None:
        looks.append(rig.supervisor._lock.acquire(blocking=False))
        if looks[-1]:
            rig.supervisor._lock.release()

    def reader(*_: object) -> None:
        other = threading.Thread(target=look)
        other.start()
        other.join()
        raise AwayError("cannot reach s3://runs/a: timeout")

    monkeypatch.setattr(rig.views, "reader", reader)
    rig.supervisor.tick()
    assert looks == [True]
    assert "max_gpu_hours: 10.0" in rig.specs[sweep]
