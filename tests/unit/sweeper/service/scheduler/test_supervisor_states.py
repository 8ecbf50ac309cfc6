"""The supervisor's decisions on both databases; in place of processes the tests hold the sweeps' locks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, delete

from sweeper.client.models import Quota, State
from sweeper.errors import AwayError, SpecError
from sweeper.service.db.sweeps import Entry, StateError, UnknownSweepError
from sweeper.service.db.tables import sweeps
from sweeper.service.scheduler import finalise, ray_address, supervisor
from sweeper.service.scheduler.process import Control
from sweeper.service.scheduler.supervisor import BACK, SERVER
from sweeper.service.views.reader import Found
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


def test_states_follow_what_processes_do(rig: Rig) -> None:
    done, stopped, killed = rig.send(), rig.send(), rig.send()
    rig.supervisor.tick()
    assert [rig.state(s) for s in (done, stopped, killed)] == ["starting", "starting", "queued"]
    assert rig.supervisor.queue.positions() == {killed: 1}
    rig.supervisor.control(done).begin()
    rig.supervisor.tick()
    assert rig.state(done) == "running"
    assert rig.supervisor.stop(stopped, "ann").state == "stopping"
    rig.ends(done, "done", "all trials are run")
    rig.ends(stopped)
    rig.supervisor.tick()
    assert rig.catalog.get(done).reason == "all trials are run"
    assert rig.catalog.get(stopped).reason.startswith("stopped by ann; its process died before")
    assert rig.state(killed) == "starting"
    rig.supervisor.cancel(killed, "bob")
    rig.ends(killed)
    rig.supervisor.tick()
    assert (rig.state(killed), rig.catalog.get(killed).reason) == ("cancelled", "cancelled by bob")
    rig.supervisor.resume(killed, "ann")
    assert rig.supervisor.cancel(killed, "ann").reason == "cancelled by ann while it waited"
    rig.supervisor.remove(killed)
    extended = rig.supervisor.extend(done, "ann", {"repeats": 3}, 6)
    assert (extended.state, extended.reason) == ("queued", "extended by ann: 6 trials")
    assert extended.task | {"kind": "extend", "options": {"repeats": 3}} == extended.task
    assert [e.id for e in rig.catalog.page()] == [stopped, done]


def test_only_what_ended_is_gone_on_with(rig: Rig) -> None:
    sweep = rig.send()
    for state in ("queued", "starting", "running"):
        assert rig.state(sweep) == state
        before = rig.catalog.get(sweep)
        with pytest.raises(StateError, match=f"is {state}: it is resumed when it has ended"):
            rig.supervisor.resume(sweep, "ann", {"trials": 9})
        with pytest.raises(StateError, match=f"is {state}: it is extended when it has ended"):
            rig.supervisor.extend(sweep, "ann", {}, 6)
        with pytest.raises(StateError, match=f"is {state}: cancel it first"):
            rig.supervisor.remove(sweep)
        assert rig.catalog.get(sweep) == before
        rig.supervisor.tick()
        rig.supervisor.control(sweep).begin()


def test_a_process_that_dies_is_started_again_unless_it_does_nothing_else(rig: Rig) -> None:
    sweep = rig.send()
    for trials, deaths in ((3, 1), (0, 2), (0, 3)):
        rig.until(sweep, State.STARTING)
        rig.views.trials = trials
        rig.ends(sweep)
        rig.supervisor._over(sweep)
        assert rig.catalog.get(sweep).deaths == deaths % 3 or rig.state(sweep) == "interrupted"
    entry = rig.catalog.get(sweep)
    assert (entry.state, entry.deaths, entry.task["attempt"]) == ("interrupted", 3, 3)


def test_a_failure_while_the_server_closes_stays_one(rig: Rig) -> None:
    failed, interrupted = rig.send(), rig.send()
    rig.supervisor.tick()
    for sweep in (failed, interrupted):  # the server is killed once it has asked them to end
        rig.supervisor.control(sweep).halt("server", SERVER, 1)
    rig.ends(failed, "failed", "no GPU")
    rig.ends(interrupted, "interrupted", SERVER)
    rig.again()
    rig.supervisor.queue.most = 0
    rig.supervisor.tick()
    assert (rig.state(failed), rig.catalog.get(failed).reason) == ("failed", "no GPU")
    assert (rig.state(interrupted), rig.catalog.get(interrupted).reason) == ("queued", BACK)


@pytest.mark.parametrize("before", [0, 1])
def test_what_a_killed_server_had_not_started_can_be_cancelled(rig: Rig, before: int) -> None:
    sweep = rig.send()
    if before:
        rig.supervisor.tick()
        rig.ends(sweep, "done", "all trials are run")
        rig.until(sweep, State.DONE)
        rig.supervisor.resume(sweep, "ann")
    rig.catalog.move(sweep, State.STARTING, "its turn", task={"kind": "run", "attempt": before + 1})
    rig.again()
    assert rig.supervisor.cancel(sweep, "ann").state == "stopping"
    rig.supervisor.tick()
    assert (rig.state(sweep), rig.catalog.get(sweep).reason) == ("cancelled", "cancelled by ann")


def test_a_server_that_closes_takes_note_of_each_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.2)
    failed, deaf = rig.send(), rig.send()
    rig.supervisor.tick()
    rig.ends(failed, "failed", "no GPU")
    rig.supervisor.close()
    assert (rig.state(failed), rig.catalog.get(failed).reason) == ("failed", "no GPU")
    assert (rig.state(deaf), rig.catalog.get(deaf).reason) == ("interrupted", SERVER)


def test_what_was_found_is_stored_once_the_store_is_back(rig: Rig, clock: SimpleNamespace) -> None:
    first, second = rig.send(), rig.send()
    rig.supervisor.tick()
    rig.views.away, rig.views.trials = True, 4
    for sweep in (first, second):
        rig.ends(sweep, "done", "all trials are run")
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


def test_what_was_found_is_stored_by_the_next_server(rig: Rig) -> None:
    kept, resumed, gone = rig.send(), rig.send(), rig.send()
    rig.views.away, rig.supervisor.queue.most = True, 3
    rig.supervisor.tick()
    for sweep in (kept, resumed, gone):
        rig.ends(sweep, "done", "all trials are run")
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

    def failing(entry: Entry) -> Found:
        if entry.id == wrong:
            raise error
        return conclude(entry)

    monkeypatch.setattr(rig.views, "conclude", failing)
    for sweep in (wrong, other):
        rig.ends(sweep, "done", "all trials are run")
    rig.supervisor.tick()
    assert rig.catalog.get(wrong).task["unread"]
    assert rig.catalog.get(other).summary is not None


@pytest.mark.parametrize("ended", [True, False])
def test_what_was_found_is_stored_of_a_sweep_that_is_cancelled_while_it_waits_again(
    rig: Rig, clock: SimpleNamespace, ended: bool
) -> None:
    sweep = rig.send()
    rig.supervisor.tick()
    rig.views.away, rig.views.trials, rig.supervisor.queue.most = True, 4, 0
    rig.ends(sweep, *(("done", "all trials are run") if ended else ()))
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
    rig.ends(sweep, "done", "all trials are run")
    rig.supervisor.tick()
    assert rig.state(sweep) == "done"
    assert "ZeroDivisionError" in caplog.text


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
    rig.catalog.told = lambda entry: told.append(entry.id) if entry.state == "queued" else None
    rig.until(other, State.STARTING)  # it does not wait for a Ray that it does not need
    for sweep in (first, second):
        entry = rig.catalog.get(sweep)
        reason = "it waits for Ray, which is tried again: Ray did not start on this machine: no space"
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


def test_who_waited_for_ray_is_told_once_it_is_there(rig: Rig) -> None:
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
    rig.ends(bounded, "done", "all trials are run")
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
    rig.ends(ended, "done", "all trials are run")
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
    assert rig.catalog.get(ended).reason == "all trials are run"
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


def test_the_last_look_is_known(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.supervisor.looked -= 100
    rig.supervisor.tick()
    assert time.monotonic() - rig.supervisor.looked < 10
    rig.supervisor.looked -= 100
    monkeypatch.setattr(rig.catalog, "in_states", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rig.supervisor.tick()
    assert time.monotonic() - rig.supervisor.looked > 90
