"""The catalog: states and their causes, keys, pages."""

import pytest
from sqlalchemy import Engine, event, inspect, select

from sweeper.client.models import ALLOWED, ENDED, State
from sweeper.errors import SpecError
from sweeper.service.db.sweeps import Catalog, KeyReusedError, NewSweep, StateError, UnknownSweepError
from sweeper.service.db.tables import NAME, VERSION, meta, open_database, sessions
from tests.support.clock import Clock


def new(owner: str = "ann", **more: object) -> NewSweep:
    given = {"owner": owner, "space": "digits_cnn", "spec": {"space": "digits_cnn"}, "budget": 4, "trials": 8}
    return NewSweep(**{**given, **more})


def test_a_sweep_waits_first_and_each_change_keeps_its_cause(catalog: Catalog, clock: Clock) -> None:
    told: list[str] = []
    catalog.on_change = lambda entry: told.append(entry.state)
    sweep = catalog.add(new())[0].id
    for state, cause in ((State.STARTING, "its turn"), (State.RUNNING, "began"), (State.DONE, "all run")):
        clock.now += 10
        entry = catalog.move(sweep, state, cause)
    assert (entry.state, entry.reason, entry.wall_seconds) == ("done", "all run", 20.0)
    assert [(r.state, r.cause) for r in catalog.history(sweep)] == [
        ("queued", "sent"), ("starting", "its turn"), ("running", "began"), ("done", "all run")
    ]  # fmt: skip
    assert told == ["queued", "starting", "running", "done"]


@pytest.mark.parametrize("state", list(State))
def test_a_state_is_followed_by_those_that_are_allowed(catalog: Catalog, state: State) -> None:
    sweep = catalog.add(new())[0].id
    for step in {State.QUEUED: [], State.STARTING: [State.STARTING]}.get(state, [State.STARTING, state]):
        catalog.move(sweep, step, "")
    for other in State:
        if other not in ALLOWED[state]:
            with pytest.raises(StateError, match=f"is {state.value}: it cannot become {other.value}"):
                catalog.move(sweep, other, "")
    assert catalog.get(sweep).state == state


def test_a_key_yields_the_sweep_that_it_made(catalog: Catalog) -> None:
    first, fresh = catalog.add(new(key="k", fingerprint="a"))
    again, other = catalog.add(new(key="k", fingerprint="a"))
    assert (first.id, fresh, other) == (again.id, True, False)
    with pytest.raises(KeyReusedError, match="'k' was used for another request"):
        catalog.add(new(key="k", fingerprint="b"))
    assert catalog.add(new("bob", key="k", fingerprint="b"))[1]
    assert len(catalog.page()) == 2


def test_pages_hold_every_sweep_once_while_others_are_sent(catalog: Catalog, clock: Clock) -> None:
    sent = []
    for i in range(7):
        clock.now += i % 2  # some at the same moment
        sent.append(catalog.add(new())[0].id)
    seen, after = [], None
    while page := catalog.page(after=after, limit=3):
        seen += [e.id for e in page]
        after = page[-1].created, page[-1].id
        clock.now += 1
        catalog.add(new())
    assert sorted(seen) == sorted(sent)


def test_users_see_their_own_and_shared_ones(catalog: Catalog) -> None:
    own, shared = catalog.add(new("ann"))[0].id, catalog.add(new("bob", shared=True))[0].id
    hidden = catalog.add(new("bob"))[0].id
    assert {e.id for e in catalog.page(seen_by="ann")} == {own, shared}
    assert {e.id for e in catalog.page()} == {own, shared, hidden}
    assert {e.id for e in catalog.page(owner="bob", states=["queued"])} == {shared, hidden}
    assert not catalog.page(space="other")


def test_the_last_start_of_each_user_is_known_to_any_server(catalog: Catalog, clock: Clock) -> None:
    first, second = catalog.add(new("ann"))[0].id, catalog.add(new("ann"))[0].id
    catalog.add(new("bob"))
    before = clock.now
    for sweep in (first, second):
        clock.now += 10
        catalog.move(sweep, State.STARTING, "")
    assert catalog.last_starts() == {"ann": before + 20}


def test_waiting_sweeps_are_listed_without_their_specs(catalog: Catalog) -> None:
    statements: list[str] = []
    event.listen(catalog.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert not catalog.on_ray([State.QUEUED])
    inline = catalog.add(new(spec={"runner": "inline"}, priority=3))[0]
    sent = [catalog.add(new("bob", spec=spec))[0] for spec in ({"runner": "ray"}, {"space": "x"})]
    statements.clear()
    found = sorted(catalog.waiting())
    assert found == sorted((e.id, e.owner, e.priority, e.queued, 0.0) for e in (inline, *sent))
    assert catalog.on_ray([State.QUEUED]) == {e.id for e in sent}
    catalog.move(sent[0].id, State.STARTING, "")
    assert catalog.on_ray([State.QUEUED]) == {sent[1].id}
    assert catalog.on_ray([State.STARTING, State.RUNNING]) == {sent[0].id}
    assert "spec" not in statements[0]


def test_only_what_ended_is_forgotten(catalog: Catalog) -> None:
    sweep = catalog.add(new())[0].id
    with pytest.raises(StateError, match="is queued: cancel it first"):
        catalog.remove(sweep)
    catalog.move(sweep, State.CANCELLED, "")
    catalog.remove(sweep)
    with pytest.raises(UnknownSweepError, match="there is no sweep"):
        catalog.get(sweep)
    assert not catalog.history(sweep)
    assert set(ENDED) == {s for s in State if s.ended}


def test_another_version_says_so(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(meta.update().where(meta.c.key == "version").values(value="99"))
    with pytest.raises(SpecError, match="a newer version of the service"):
        open_database(url)


def test_a_database_of_version_2_gets_sessions_and_a_name(catalog: Catalog, url: str, engine: Engine) -> None:
    sweep = catalog.add(new())[0].id
    with engine.begin() as connection:
        sessions.drop(connection)
        connection.execute(meta.delete().where(meta.c.key == NAME))
        connection.execute(meta.update().where(meta.c.key == "version").values(value="2"))
    names: list[str] = []
    for _ in range(2):
        again = open_database(url)
        with again.connect() as connection:
            found = {row.key: row.value for row in connection.execute(select(meta))}
        assert inspect(again).has_table(sessions.name)
        assert found["version"] == str(VERSION)
        assert Catalog(again).get(sweep).state == State.QUEUED
        names.append(found[NAME])
        again.dispose()
    assert names[0] == names[1]
