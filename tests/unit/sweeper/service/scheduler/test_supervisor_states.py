"""The supervisor's decisions on both databases; in place of processes the tests hold the sweeps' locks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, delete

from sweeper.client.models import State
from sweeper.service.db.sweeps import StateError
from sweeper.service.db.tables import sweeps
from sweeper.service.scheduler import finalise, ray_address, supervisor
from sweeper.service.scheduler.process import Control
from sweeper.service.scheduler.supervisor import BACK, SERVER
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


def test_states_follow_what_processes_do(rig: Rig) -> None:
    done, stopped, killed = rig.send(), rig.send(), rig.send()
    rig.supervisor.tick()
    assert [rig.state(s) for s in (done, stopped, killed)] == ["starting", "starting", "queued"]
    assert rig.supervisor.queue.positions() == {killed: 1}
    rig.supervisor.control(done).begin()
    rig.supervisor.tick()
    assert rig.state(done) == "running"
    assert rig.supervisor.stop(stopped, "ann").state == "stopping"
    rig.ends(done, "done", "all trials have run")
    rig.ends(stopped)
    rig.supervisor.tick()
    assert rig.catalog.get(done).reason == "all trials have run"
    assert rig.catalog.get(stopped).reason.startswith("stopped by ann; process died before")
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


def test_only_ended_sweeps_can_be_resumed(rig: Rig) -> None:
    sweep = rig.send()
    for state in ("queued", "starting", "running"):
        assert rig.state(sweep) == state
        before = rig.catalog.get(sweep)
        with pytest.raises(StateError, match=f"is {state}: resume it after it has ended"):
            rig.supervisor.resume(sweep, "ann", {"trials": 9})
        with pytest.raises(StateError, match=f"is {state}: extend it after it has ended"):
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
        rig.supervisor._check_end(sweep)
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
        rig.ends(sweep, "done", "all trials have run")
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


def test_the_last_look_is_known(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.supervisor.looked -= 100
    rig.supervisor.tick()
    assert time.monotonic() - rig.supervisor.looked < 10
    rig.supervisor.looked -= 100
    monkeypatch.setattr(rig.catalog, "in_states", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rig.supervisor.tick()
    assert time.monotonic() - rig.supervisor.looked > 90
