"""The supervisor over real processes of sweeps of a closed form: states, stops, deaths, servers that are killed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.client.models import Quota, State
from sweeper.config.spec import SweepSpec
from sweeper.service.db.sweeps import Catalog, Entry, NewSweep, StateError, UnknownSweepError
from sweeper.service.db.tables import open_database
from sweeper.service.scheduler.process import Control
from sweeper.service.scheduler.starts import spec_to_run
from sweeper.service.scheduler.supervisor import SERVER, Supervisor
from sweeper.service.views.events import Hub
from sweeper.service.views.views import Views
from sweeper.storage.tables import read_trials
from tests.support.waiting import until

pytestmark = pytest.mark.service


class Rig:
    """A service without HTTP; `again` is what another server sees."""

    def __init__(self, root: Path, most: int = 2) -> None:
        self.root, self.most = root, most
        (root / ".service").mkdir()
        self.engine = open_database(f"sqlite:///{root}/service.db")
        self.servers: list[Supervisor] = []
        self.again()

    def again(self) -> None:
        hub = Hub()
        self.catalog = Catalog(self.engine)
        self.views = Views(self.catalog, hub, lambda sweep: str(self.root / sweep))
        self.supervisor = Supervisor(
            self.catalog, self.views, self.root / ".service", lambda: "", lambda _: Quota(), self.most
        )
        self.servers.append(self.supervisor)

    def send(self, owner: str = "ann", **keys: Any) -> str:
        given = {"space": "synthetic", "trials": 4, "runner": "inline", "sampler": "random", **keys}
        spec = SweepSpec.checked(given)
        new = NewSweep(owner, spec.space, spec.dump_explicit(), spec.trials, spec.trials * spec.repeats)
        return self.catalog.add(new)[0].id

    def until(self, sweep: str, *states: State) -> Entry:
        self.tick_until(lambda: self.catalog.get(sweep).state in states, sweep)
        return self.catalog.get(sweep)

    def until_trials(self, sweep: str, count: int) -> None:
        self.tick_until(lambda: len(list((self.root / sweep / "trials").glob("*.parquet"))) >= count, sweep)

    def tick_until(self, condition: Callable[[], bool], sweep: str) -> None:
        def holds() -> bool:
            if condition():
                return True
            if not self.supervisor._threads:  # a supervisor that was started ticks by itself
                self.supervisor.tick()
            return False

        until(holds, lambda: self.catalog.get(sweep))

    def states(self, sweep: str) -> list[str]:
        return [row.state for row in self.catalog.history(sweep)]

    def digests(self, sweep: str) -> list[str]:
        return read_trials(self.root / sweep)["digest"].to_pylist()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    for control in (tmp_path / ".service" / "sweeps").glob("*"):
        Control(control).signal(signal.SIGKILL)
    for server in made.servers:
        for child in server._children.values():
            child.wait()
    made.engine.dispose()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setenv("SWEEPER_SYNTHETIC_SECONDS", str(seconds))


def test_a_sweep_runs_to_its_end(rig: Rig) -> None:
    sweep = rig.send(trials=8)
    entry = rig.until(sweep, State.DONE)
    assert entry.reason == "all trials have run"
    assert rig.states(sweep) == ["queued", "starting", "running", "done"] or rig.states(sweep)[-1] == "done"
    shown = rig.views.detail(entry)
    assert (shown.progress.done, shown.progress.trials, shown.progress.failed) == (8, 8, 0)
    assert shown.best is not None
    assert shown.best.digest in rig.digests(sweep)
    assert (rig.root / sweep / "dashboard.html").is_file()
    best = rig.views.best(entry)
    assert best is not None
    assert best["digest"] in rig.digests(sweep)
    assert b"<html" in b"".join(rig.views.report(entry, "http://here"))
    first, after, more = rig.views.trials(entry, 0, 5, {}, ["digest"])
    rest, _, no_more = rig.views.trials(entry, after, 5, {}, ["digest"])
    assert (more, no_more) == (True, False)
    assert sorted(first["digest"].to_pylist() + rest["digest"].to_pylist()) == sorted(rig.digests(sweep))
    with pytest.raises(StateError, match="is done: there is nothing to stop"):
        rig.supervisor.stop(sweep, "ann")


def test_a_stop_finishes_running_trials_and_a_resume_continues(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(0.3)
    sweep = rig.send(trials=200)
    rig.until_trials(sweep, 2)
    assert rig.supervisor.stop(sweep, "ann").state == State.STOPPING
    entry = rig.until(sweep, State.DONE)
    assert entry.reason == "stopped by ann"
    before = rig.digests(sweep)
    assert 2 <= len(before) < 20
    slow(0.0)
    assert rig.supervisor.resume(sweep, "bob", {"trials": len(before) + 3}, len(before) + 3).due == 3
    assert rig.until(sweep, State.DONE).reason == "all trials have run"
    after = rig.digests(sweep)
    assert len(after) == len(set(after)) == len(before) + 3
    assert set(before) < set(after)
    assert rig.catalog.used("ann", 0.0)[0] == len(after)
    causes = [row.cause for row in rig.catalog.history(sweep)]
    assert {"stopped by ann", "resumed by bob", "sent"} <= set(causes)


def test_an_extension_asks_for_its_trials(rig: Rig) -> None:
    sweep = rig.send(max_gpu_hours=2.0)
    rig.catalog.move(sweep, State.STARTING, "")
    rig.catalog.move(sweep, State.DONE, "", gpu_hours=0.5)
    entry = rig.supervisor.extend(sweep, "ann", {}, 6)
    assert (entry.state, entry.due, entry.due_gpu_seconds) == (State.QUEUED, 6, 5400.0)


def test_a_sweep_may_use_what_the_quota_leaves_it(rig: Rig) -> None:
    rig.supervisor.quota = lambda _: Quota(gpu_hours=5.0)
    promised, free = rig.send(max_gpu_hours=3.0), rig.send()
    rig.catalog.change(free, gpu_hours=0.5)

    def most(sweep: str, read: bool = True) -> float | None:
        entry = rig.catalog.get(sweep)
        found = rig.supervisor.endings.look(entry) if read else None
        return spec_to_run(rig.views, rig.supervisor.quota, entry, None, found).max_gpu_hours

    assert (most(promised), most(free)) == (3.0, 2.0)
    assert most(free, read=False) == 2.5  # its folder is away: what it had used when it ended last


def test_a_cancel_kills_and_keeps_what_is_finished(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(0.3)
    sweep, waiting = rig.send(trials=200), rig.send(trials=200)
    rig.supervisor.queue.most = 1
    rig.until_trials(sweep, 1)
    assert rig.supervisor.cancel(waiting, "ann").reason == "cancelled by ann while it waited"
    rig.supervisor.cancel(sweep, "ann")
    entry = rig.until(sweep, State.CANCELLED)
    assert entry.reason == "cancelled by ann"
    assert rig.digests(sweep)
    assert not rig.supervisor.control(sweep).alive


def test_a_killed_process_restarts(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(0.2)
    sweep, calm = rig.send(trials=12, seed=5), rig.send(trials=12, seed=5)
    rig.until_trials(sweep, 3)
    rig.supervisor.control(sweep).signal(signal.SIGKILL)
    rig.until(sweep, State.QUEUED, State.STARTING)
    rig.until(sweep, State.DONE)
    rig.until(calm, State.DONE)
    assert sorted(rig.digests(sweep)) == sorted(rig.digests(calm))
    assert "process died; restarting" in [row.cause for row in rig.catalog.history(sweep)]


def test_a_sweep_that_dies_again_and_again_is_left(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(60.0)
    sweep = rig.send()
    for _ in range(3):
        rig.until(sweep, State.RUNNING)
        rig.supervisor.control(sweep).signal(signal.SIGKILL)
        entry = rig.until(sweep, State.QUEUED, State.STARTING, State.INTERRUPTED)
    assert entry.state == State.INTERRUPTED
    assert "died 3 times without finishing a trial" in entry.reason


def test_another_server_adopts_what_lives_and_starts_nothing_twice(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(0.2)
    sweep = rig.send(trials=15)
    rig.until_trials(sweep, 2)
    first = (rig.supervisor.control(sweep).folder / "lock").read_text()
    rig.again()
    rig.supervisor.tick()
    assert (rig.supervisor.control(sweep).folder / "lock").read_text() == first
    entry = rig.until(sweep, State.DONE)
    assert entry.task["attempt"] == 1
    assert len(set(rig.digests(sweep))) == len(rig.digests(sweep)) == 15


def test_a_server_that_ends_interrupts_and_the_next_continues(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(0.2)
    sweep = rig.send(trials=10)
    rig.until_trials(sweep, 2)
    rig.supervisor.close()
    entry = rig.catalog.get(sweep)
    assert (entry.state, entry.reason) == (State.INTERRUPTED, SERVER)
    assert not rig.supervisor.control(sweep).alive
    rig.again()
    rig.supervisor.start()
    entry = rig.until(sweep, State.DONE)
    rig.supervisor.close()
    assert len(set(rig.digests(sweep))) == len(rig.digests(sweep)) == 10
    assert "the server is back" in [row.cause for row in rig.catalog.history(sweep)]


def test_a_request_to_one_attempt_does_not_reach_the_next(rig: Rig, slow: Callable[[float], None]) -> None:
    slow(0.3)
    sweep = rig.send(trials=200)
    rig.until_trials(sweep, 1)
    rig.supervisor.cancel(sweep, "ann")
    rig.until(sweep, State.CANCELLED)
    rig.supervisor.resume(sweep, "ann", {"trials": 200}, 200)
    # a server that was killed between noting the start and starting
    entry = rig.catalog.get(sweep)
    rig.catalog.move(sweep, State.STARTING, "its turn", task={**entry.task, "attempt": 2, "seen": 1})
    rig.supervisor.tick()
    assert rig.catalog.get(sweep).state in (State.QUEUED, State.STARTING)
    # and one that was killed while it waited for the process to end
    rig.until(sweep, State.RUNNING)
    control = rig.supervisor.control(sweep)
    control.halt("server", SERVER, control.task["attempt"])
    control.signal(signal.SIGTERM)
    rig.again()
    rig.until(sweep, State.QUEUED, State.STARTING)
    rig.supervisor.cancel(sweep, "ann")
    rig.until(sweep, State.CANCELLED)


def test_a_spec_that_cannot_run_fails_with_its_sentence(rig: Rig) -> None:
    sweep = rig.send(noise="paper_aug", measure=0)
    entry = rig.until(sweep, State.FAILED)
    assert entry.reason.startswith("noise 'paper_aug' is measured by a probe")
    assert "Traceback" not in entry.reason
    assert rig.views.best(entry) is None
    assert rig.views.weights(entry) is None
    with pytest.raises(UnknownSweepError, match="is failed and has no page: its run folder does not exist"):
        rig.views.report(entry, "http://here")


def test_what_is_deleted_is_gone(rig: Rig) -> None:
    sweep = rig.send(trials=2)
    with pytest.raises(StateError, match="cancel it first"):
        rig.supervisor.remove(sweep)
    rig.until(sweep, State.DONE)
    rig.supervisor.remove(sweep)
    assert not (rig.root / sweep).exists()
    with pytest.raises(ValueError, match="there is no sweep"):
        rig.catalog.get(sweep)
