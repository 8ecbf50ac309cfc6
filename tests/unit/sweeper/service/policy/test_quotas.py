"""What lands is numbered and charged at once, and stays charged; quotas count it and what sweeps may still use."""

import pyarrow as pa
import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError

from sweeper.client.models import Quota, State
from sweeper.config.resources import Resources
from sweeper.config.spec import SweepSpec
from sweeper.service.db.landing import CHUNK, Landing
from sweeper.service.db.sweeps import Catalog, NewSweep, UnknownSweepError
from sweeper.service.db.tables import NAME, meta, open_database
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.quotas import (
    Demand,
    check_quota,
    gpu_hours_left,
    hold_exhausted,
    remaining_demand,
    stop_over_quota,
)
from tests.support.clock import Clock

DAY = 86400.0


def send(catalog: Catalog, owner: str = "ann", trials: int = 10, **keys: object) -> str:
    spec = {"space": "digits_cnn", **keys}
    return catalog.add(NewSweep(owner, "digits_cnn", spec, trials, trials))[0].id


def landing(catalog: Catalog, sweep: str) -> Landing:
    return Landing(catalog.engine, sweep, Resources(gpus_per_pair=0.5), catalog.clock)


def table(*rows: tuple[str, str, str], seconds: float = 3600.0, device: str = "cuda:0") -> pa.Table:
    held = {"device": device, "device_seconds": seconds, "members": 2}
    return pa.Table.from_pylist([{"digest": d, "outcome": o, "started": s, **held} for d, o, s in rows])


def many(count: int, **more: object) -> pa.Table:
    return table(*((f"d{i}", "ok", f"{i:06}") for i in range(count)), **more)  # type: ignore[arg-type]


def used(catalog: Catalog, owner: str = "ann") -> tuple[int, float]:
    return catalog.used(owner, 0.0)


def end(catalog: Catalog, sweep: str, **changes: object) -> None:
    catalog.move(sweep, State.STARTING, "")
    catalog.move(sweep, State.DONE, "", **changes)


# -- landing ----------------------------------------------------------------------------------------------------------


def test_trials_keep_the_number_of_their_landing(catalog: Catalog) -> None:
    sweep = send(catalog)
    first = landing(catalog, sweep)
    assert first.take(table(("b", "ok", "2"), ("a", "failed", "1"))) == [1, 0]
    assert first.take(table(("c", "ok", "0"), ("b", "ok", "2"), ("a", "failed", "1"))) == [0]
    assert first.numbers == {"a": 1, "b": 2, "c": 3}
    # run again: whoever has seen it sees it again
    again = landing(catalog, sweep)
    assert again.take(table(("a", "ok", "9"), ("b", "ok", "2"), ("c", "ok", "0"))) == [0]
    assert again.numbers == {"a": 4, "b": 2, "c": 3}
    assert landing(catalog, sweep).numbers == again.numbers


def test_what_could_not_be_written_is_taken_by_the_next_call(catalog: Catalog) -> None:
    sweep = send(catalog, trials=3 * CHUNK)
    reader, rows = landing(catalog, sweep), many(CHUNK + 2)
    written: list[int] = []

    def fails(*_: object) -> None:
        written.append(1)
        if len(written) == 2:  # after the first part of it
            raise OperationalError("insert", {}, Exception("the disk is full"))

    def before(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO landed"):
            fails()

    event.listen(catalog.engine, "before_cursor_execute", before)
    with pytest.raises(OperationalError):
        reader.take(rows)
    assert (reader.numbers, landing(catalog, sweep).numbers, used(catalog)) == ({}, {}, (0, 0.0))
    assert len(reader.take(rows)) == CHUNK + 2
    assert reader.numbers == landing(catalog, sweep).numbers
    assert used(catalog)[0] == CHUNK + 2
    assert reader.take(rows) == []


def test_two_readers_number_and_charge_a_trial_once(catalog: Catalog) -> None:
    sweep = send(catalog)
    first, second = landing(catalog, sweep), landing(catalog, sweep)
    assert first.take(many(2)) == [0, 1]
    assert second.take(many(3)) == [2]
    assert first.take(many(4)) == [3]
    assert first.numbers | second.numbers == {"d0": 1, "d1": 2, "d2": 3, "d3": 4} == landing(catalog, sweep).numbers
    assert used(catalog) == (4, 2.0)


def test_trials_of_a_sweep_that_is_forgotten_land_nowhere(catalog: Catalog) -> None:
    sweep = send(catalog)
    reader = landing(catalog, sweep)
    end(catalog, sweep)
    catalog.remove(sweep)
    with pytest.raises(UnknownSweepError):
        reader.take(many(1))
    assert used(catalog) == (0, 0.0)


# -- what is used -----------------------------------------------------------------------------------------------------


def test_what_is_used_stays_when_a_sweep_is_forgotten_and_ages_by_days(catalog: Catalog, clock: Clock) -> None:
    sweep = send(catalog)
    reader = landing(catalog, sweep)
    reader.take(many(2))
    clock.now += DAY
    reader.take(many(3, seconds=float("nan")))
    end(catalog, sweep)
    catalog.remove(sweep)
    assert used(catalog) == (3, 1.0)
    assert catalog.used("ann", 1001.1 * DAY) == (1, 0.0)
    assert used(catalog, "bob") == (0, 0.0)
    catalog.prune_usage(1001.9 * DAY)
    assert used(catalog) == (1, 0.0)


def test_a_trial_that_is_run_again_costs_again_and_cpus_cost_no_gpu_hours(catalog: Catalog) -> None:
    reader = landing(catalog, send(catalog))
    reader.take(table(("a", "failed", "1")))
    reader.take(table(("a", "ok", "2")))
    reader.take(table(("a", "ok", "2"), ("b", "ok", "3"), device="cpu"))
    assert used(catalog) == (3, 1.0)


def test_what_a_sweep_may_still_use_counts_while_it_waits_or_runs(catalog: Catalog) -> None:
    sweep = send(catalog, trials=5, max_gpu_hours=2.0)
    assert catalog.due("ann") == (1, 5, 2.0)
    catalog.move(sweep, State.STARTING, "")
    landing(catalog, sweep).take(many(2))
    assert catalog.due("ann") == (0, 3, 1.0)
    assert catalog.due("ann", but=sweep) == (0, 0, 0.0)
    landing(catalog, sweep).take(many(7))
    assert catalog.due("ann") == (0, 0, 0.0)
    catalog.change(sweep, due=3)
    catalog.move(sweep, State.DONE, "")
    assert catalog.due("ann") == (0, 0, 0.0)


def test_an_old_database_opens_with_what_its_sweeps_have_used(catalog: Catalog, engine: Engine, url: str) -> None:
    sweep = send(catalog, trials=5, max_gpu_hours=2.0)
    landing(catalog, sweep).take(many(2))
    catalog.change(sweep, gpu_hours=1.5)
    with engine.begin() as connection:  # as version 1 has it
        connection.execute(text("DROP TABLE usage"))
        connection.execute(text("DROP TABLE sessions"))
        connection.execute(meta.delete().where(meta.c.key == NAME))
        for column in ("due", "due_gpu_seconds"):
            connection.execute(text(f"ALTER TABLE sweeps DROP COLUMN {column}"))
        connection.execute(meta.update().where(meta.c.key == "version").values(value="1"))
    engine.dispose()
    for _ in range(2):
        again = open_database(url)
        found = Catalog(again, catalog.clock)
        assert found.used("ann", 0.0) == (2, 1.5)
        assert found.due("ann") == (1, 3, 0.5)
        more = send(found)
        assert found.get(more).due == 10
        found.move(more, State.CANCELLED, "")
        again.dispose()


# -- quotas -----------------------------------------------------------------------------------------------------------


def refused(catalog: Catalog, quota: Quota, ask: Demand) -> str:
    with pytest.raises(RefusedError) as error:
        check_quota(catalog, "ann", quota, ask, catalog.clock)
    assert error.value.status == 429
    return str(error.value)


def test_trials_are_those_that_landed_and_those_that_may(catalog: Catalog, clock: Clock) -> None:
    quota, sweep = Quota(trials=10), send(catalog, trials=6)
    check_quota(catalog, "ann", quota, Demand(4), clock)
    assert refused(catalog, quota, Demand(5)) == (
        "ann has used 0 of 10 trials in 30 days, has sweeps that may use 6 more and asks for 5 more: wait until one of "
        "them has ended, or cancel one"
    )
    landing(catalog, sweep).take(many(3))
    assert "used 3 of 10 trials in 30 days, has sweeps that may use 3 more" in refused(catalog, quota, Demand(5))
    end(catalog, sweep)
    check_quota(catalog, "ann", quota, Demand(7), clock)
    catalog.remove(sweep)
    assert refused(catalog, quota, Demand(8)) == (
        "ann has used 3 of 10 trials in 30 days and asks for 8 more: enough is free again on 1972-10-28 00:00 UTC"
    )
    assert "that exceeds the quota" in refused(catalog, quota, Demand(11))
    clock.now = 1030.99 * DAY
    refused(catalog, quota, Demand(8))
    clock.now = 1031 * DAY
    check_quota(catalog, "ann", quota, Demand(10), clock)


def test_a_resume_asks_for_what_it_has_not_done(catalog: Catalog) -> None:
    sweep = send(catalog, trials=10, max_gpu_hours=2.0)
    spec = SweepSpec.checked({"space": "digits_cnn", "repeats": 3, "max_gpu_hours": 4.0})
    end(catalog, sweep)
    assert remaining_demand(catalog.get(sweep), spec, 10) == (30, 4.0)
    catalog.change(sweep, summary={"progress": {"done": 8}}, gpu_hours=1.0)
    assert remaining_demand(catalog.get(sweep), spec, 10) == (6, 3.0)
    assert remaining_demand(catalog.get(sweep), spec, 5) == (0, 3.0)


def test_gpu_hours_that_are_promised_are_not_given_twice(catalog: Catalog, clock: Clock) -> None:
    quota = Quota(gpu_hours=5.0)
    bounded, free = send(catalog, max_gpu_hours=3.0), send(catalog)
    check_quota(catalog, "ann", quota, Demand(1), clock)
    check_quota(catalog, "ann", quota, Demand(1, 2.0), clock)
    assert "may use 3 more and asks for 2.5 more" in refused(catalog, quota, Demand(1, 2.5))
    landing(catalog, free).take(many(2))
    assert [gpu_hours_left(catalog, "ann", 5.0, s) for s in (bounded, free)] == [4.0, 1.0]
    stopped: list[tuple[str, str]] = []
    for sweep in (bounded, free):
        catalog.move(sweep, State.STARTING, "")

    def look() -> list[str]:
        stopped.clear()
        stop_over_quota(catalog, lambda _: quota, lambda sweep, by: stopped.append((sweep, by)))
        return [sweep for sweep, _ in stopped]

    assert look() == []
    landing(catalog, free).take(many(4))
    assert look() == [free]
    assert stopped[0][1] == "the quota of 5 GPU-hours in 30 days"
    assert refused(catalog, quota, Demand(1)).startswith("ann has used 2 of 5 GPU-hours in 30 days, has sweeps")
    landing(catalog, bounded).take(many(6))
    assert set(look()) == {bounded, free}


def test_gpu_hours_that_are_used_to_the_last_say_when_some_are_free(catalog: Catalog) -> None:
    landing(catalog, send(catalog)).take(many(2))
    assert refused(catalog, Quota(gpu_hours=1.0), Demand(1)) == (
        "ann has used 1 of 1 GPU-hours in 30 days: enough is free again on 1972-10-28 00:00 UTC"
    )
    with pytest.raises(RefusedError, match="bob has used 0 of 0 GPU-hours in 30 days: ask an admin to raise the quota"):
        check_quota(catalog, "bob", Quota(gpu_hours=0.0), Demand(1), catalog.clock)


def test_who_has_used_all_gpu_hours_waits(catalog: Catalog, clock: Clock) -> None:
    quota = hold_exhausted(catalog, lambda _: Quota(running=3, gpu_hours=1.0))
    reader = landing(catalog, send(catalog))
    reader.take(many(1))
    assert quota("ann").running == 3
    reader.take(many(2))
    assert quota("ann").running == 0
    clock.now += 31 * DAY
    assert quota("ann").running == 3


def test_sweeps_that_wait_are_counted(catalog: Catalog, clock: Clock) -> None:
    assert Quota().waiting == 100
    first = send(catalog)
    send(catalog)
    send(catalog, "bob")
    assert refused(catalog, Quota(waiting=2), Demand(1)) == (
        "ann has 2 waiting sweeps and may have 2: wait until one has started, or cancel one"
    )
    catalog.move(first, State.STARTING, "")
    check_quota(catalog, "ann", Quota(waiting=2), Demand(1), clock)
