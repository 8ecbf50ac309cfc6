"""Turns: a user's expensive calls are bounded, users take turns, and what is cheap is answered meanwhile."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sweeper.client.models import Role, State
from sweeper.service.api import turns
from sweeper.service.api.turns import Turns
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.limits import Limits
from tests.support.service_fakes import client_of, make_service
from tests.support.waiting import PATIENCE, until

SPEC = {"space": "digits_cnn", "trials": 4}


def of(each=4):
    return Turns(each, threading.Event())


def test_calls_of_a_user_in_flight_are_bounded():
    found = of(2)
    with found.count("anna"), found.count("anna"):
        with pytest.raises(RefusedError, match="may have 2 expensive requests") as error, found.count("anna"):
            pass
        assert (error.value.status, error.value.headers) == (429, {"Retry-After": "1"})
        with found.count("ben"):
            pass
    with found.count("anna"):
        pass
    assert not found._flying


def test_users_take_turns_however_many_calls_one_of_them_has(monkeypatch):
    monkeypatch.setattr(turns, "AT_ONCE", 1)
    found, order, go = of(), [], threading.Event()

    def work(name):
        assert go.wait(PATIENCE)
        order.append(name)
        if name == "wrong":
            raise ValueError(name)
        return name

    async def ask():
        first = asyncio.ensure_future(found.run("anna", work, "first"))
        while found._count:
            await asyncio.sleep(0.005)
        names = [("anna", "a1"), ("anna", "a2"), ("ben", "wrong"), ("anna", "gone"), ("carl", "c1"), ("ben", "b2")]
        calls = {name: asyncio.ensure_future(found.run(user, work, name)) for user, name in names}
        await asyncio.sleep(0)
        gone = calls.pop("gone")
        gone.cancel()  # whoever sent it has left
        await asyncio.wait([gone])  # a cancellation takes effect in the next turn of the loop
        go.set()
        return await first, await asyncio.gather(*calls.values(), return_exceptions=True)

    first, rest = asyncio.run(ask())
    assert (first, [str(r) for r in rest]) == ("first", ["a1", "a2", "wrong", "c1", "b2"])
    assert order == ["first", "a1", "wrong", "c1", "a2", "b2"]
    assert found._count == 0
    assert not found._waiting


def test_waiting_calls_are_bounded_and_end_with_the_service(monkeypatch):
    monkeypatch.setattr(turns, "AT_ONCE", 1)
    monkeypatch.setattr(turns, "WAITING", 1)
    found, go = of(), threading.Event()

    async def ask():
        running = asyncio.ensure_future(found.run("anna", go.wait, PATIENCE))
        while found._count:
            await asyncio.sleep(0.005)
        waiting = asyncio.ensure_future(found.run("ben", str, 1))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="too many requests wait") as error:
            await found.run("carl", str, 1)
        assert (error.value.status, error.value.headers) == (503, {"Retry-After": "5"})
        found.closing.set()
        go.set()
        with pytest.raises(RefusedError, match="the service is stopping"):
            await waiting
        return await running

    assert asyncio.run(ask())


@pytest.fixture
def service(tmp_path):
    return make_service(tmp_path, auth=True)


def test_dry_runs_hold_up_their_own_user_only(service):
    client = client_of(service, Limits(expensive=2))
    anna, ben, eve = ({"headers": service.token(name, Role.SUBMITTER)} for name in ("anna", "ben", "eve"))
    held = client.app.state.api.turns

    def dry_run(who):
        return client.post("/v1/sweeps?dry_run=true", json=SPEC, **who)

    with ThreadPoolExecutor(8) as pool:
        with held.computing:  # nobody's spec is read
            calls = [pool.submit(dry_run, who) for who in (anna, anna, ben, ben)]
            until(lambda: held._flying == {"user anna": 2, "user ben": 2})
            refused = dry_run(anna)
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert "wait until one is answered" in refused.json()["detail"]
            assert client.post("/v1/sweeps", json=SPEC, **anna).status_code == 429
            assert client.get("/v1/me", **eve).status_code == 200
            assert client.get("/v1/me", **anna).status_code == 200
        assert [c.result().status_code for c in calls] == [200] * 4
    assert dry_run(anna).status_code == 200
    assert not held._flying


def test_what_takes_long_counts_for_its_user(service):
    anna = service.token("anna", Role.SUBMITTER)
    sweep = service.add("anna", State.STARTING, State.RUNNING, State.DONE)
    client = client_of(service, Limits(expensive=1))
    paths = ("report", "best", "best/weights", "recommendation", "trials?limit=5000")
    with client.app.state.api.turns.count("user anna"):
        for path in paths:
            assert client.get(f"/v1/sweeps/{sweep}/{path}", headers=anna).status_code == 429, path
        for path in ("extend", "resume"):
            assert client.post(f"/v1/sweeps/{sweep}/{path}", headers=anna).status_code == 429, path
        for path in ("", "/trials?limit=100"):
            assert client.get(f"/v1/sweeps/{sweep}{path}", headers=anna).status_code == 200, path
    for path in paths:
        assert client.get(f"/v1/sweeps/{sweep}/{path}", headers=anna).status_code in (200, 404), path
