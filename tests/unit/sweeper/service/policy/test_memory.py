"""Memory of sweeps that run inline: a limit per process, and how many run at a time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.client.models import Quota, State
from sweeper.config.fields import parse_bytes
from sweeper.config.spec import SweepSpec
from sweeper.service.db.sweeps import Catalog, Entry, NewSweep
from sweeper.service.db.tables import open_database
from sweeper.service.policy.memory import Room, machine_memory, share_memory
from sweeper.service.scheduler.queue import Queue
from sweeper.service.scheduler.supervisor import Supervisor
from sweeper.service.views.events import Hub
from sweeper.service.views.views import Views
from sweeper.storage.tables import read_trials
from tests.support.waiting import until
from trainables.pair.record import make_failed_output
from trainables.result import Outcome
from trainables.runtime import Runtime
from trainables.spec import PairSpec

GIB = 1 << 30
LIMIT = int(parse_bytes("2600MB"))  # a sweep of digits maps 2.3 GB
WIDE = {"model": "resnet18_32", "model_options": {"width": 1024}, "base.steps": 0}
LARGE = {"model": "resnet18_32", "dataset_options": {"size": 96}, "batch_size": 720, "base.steps": 0, "epochs": 1}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(open_database(f"sqlite:///{tmp_path}/service.db"))


def send(catalog: Catalog, **keys: Any) -> str:
    given = {"space": "synthetic", "trials": 1, "runner": "inline", "sampler": "random", **keys}
    spec = SweepSpec.checked(given)
    return catalog.add(NewSweep("ann", spec.space, spec.dump_explicit(), 1, 1))[0].id


@pytest.mark.parametrize(
    ("asked", "running", "machine", "found"),
    [
        (None, 4, 40 * GIB, Room(8 * GIB, 4)),
        (None, 4, 10 * GIB, Room(4 * GIB, 2)),  # the smallest default: fewer run at a time
        (None, 4, 2 * GIB, Room(4 * GIB, 1)),
        (2 * GIB, 4, 10 * GIB, Room(2 * GIB, 4)),
        (0, 4, 10 * GIB, Room()),
    ],
)
def test_inline_sweeps_share_the_machines_memory(asked: int | None, running: int, machine: int, found: Room) -> None:
    assert share_memory(asked, running, machine) == found


def test_the_machine_has_memory() -> None:
    assert 0 < machine_memory() < 1 << 50


def test_an_inline_sweep_waits_for_memory_and_one_of_ray_goes_ahead(catalog: Catalog) -> None:
    ray: Any = SimpleNamespace(get=lambda: "here:1", trouble="")
    queue = Queue(catalog, lambda _: Quota(), 4, ray, 2)
    first, second, third, fourth = (send(catalog) for _ in range(4))
    on_ray = send(catalog, runner="ray")
    turns, held = queue.turns([])
    assert turns == {first: None, second: None, on_ray: "here:1"}
    assert held == {third: "waiting for memory: 2 sweeps of runner inline may run at a time"}
    active = [catalog.move(s, State.STARTING, "") for s in (first, on_ray)]
    assert (queue.turns(active)[0], fourth in queue.turns(active)[1]) == ({second: None}, False)


def test_an_allocation_that_fails_is_the_outcome_of_a_trial() -> None:
    spec = PairSpec(dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=64)
    text = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    for error in (RuntimeError(text), MemoryError()):
        result = make_failed_output(spec, Runtime(), error, "2026-01-01T00:00:00").result
        assert result.outcome == Outcome.OUT_OF_MEMORY
        assert result.outcome_detail.startswith("out of memory at batch_size 64 on ")
    assert (
        make_failed_output(spec, Runtime(), RuntimeError("shapes"), "2026-01-01T00:00:00").result.outcome
        == Outcome.FAILED
    )


@pytest.mark.service
def test_a_sweep_that_takes_too_much_ends_and_nothing_else_does(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / ".service").mkdir()
    views = Views(catalog, Hub(), lambda sweep: str(tmp_path / sweep))
    allowed = {"room": Room(LIMIT, 3)}
    supervisor = Supervisor(catalog, views, tmp_path / ".service", lambda: "", lambda _: Quota(), 3, **allowed)
    wide = send(catalog, space="digits_cnn", fixed=WIDE, measure=0)
    large = send(catalog, space="digits_cnn", fixed=LARGE, measure=0)
    small = send(catalog)

    def ended(sweep: str) -> Entry:
        def over() -> bool:
            supervisor.tick()
            return State(catalog.get(sweep).state).ended

        until(over, lambda: catalog.get(sweep))
        return catalog.get(sweep)

    assert (ended(small).state, ended(small).reason) == (State.DONE, "all trials have run")
    assert ended(wide).state == State.FAILED
    assert ended(wide).reason.startswith("a trial needs more memory than this process may take, before it trains: ")
    assert (ended(large).state, ended(large).reason) == (State.FAILED, "none of 1 trial succeeded")
    (row,) = read_trials(tmp_path / large).to_pylist()
    assert row["outcome"] == "out_of_memory"
    assert row["outcome_detail"].startswith("out of memory at batch_size 720 on cpu; lower it or the model: ")
    assert supervisor.looked > 0
    supervisor.close()
