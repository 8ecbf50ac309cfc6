"""Streams of events: what is, then what comes, and their ends."""

import json
import threading

import pytest

from sweeper.client.models import Role, State
from sweeper.service.policy.limits import Limits
from tests.support.service_fakes import client_of, make_service
from tests.support.waiting import until


@pytest.fixture
def service(tmp_path):
    return make_service(tmp_path)


def parsed(text):
    blocks = [dict(line.split(": ", 1) for line in b.splitlines() if not line.startswith(":")) for b in
              text.strip().split("\n\n")]  # fmt: skip
    return [(b["event"], json.loads(b["data"])) for b in blocks if b]


def later(hub, *steps):
    def run():
        for step in steps:
            until(lambda: hub._waiting)  # somebody listens
            step()

    threading.Thread(target=run, daemon=True).start()


def test_a_stream_begins_with_what_is_and_ends_with_the_sweep(service):
    sweep = service.add("local", State.STARTING, State.RUNNING)
    other, hub = service.add("local"), service.hub
    hub.publish(sweep, "trial", {"digest": "before"})
    later(
        service.hub,
        lambda: hub.publish(other, "trial", {"digest": "other"}),
        lambda: hub.publish(sweep, "trial", {"digest": "a"}),
        lambda: hub.publish(sweep, "state", {"state": "done"}),
    )
    answer = client_of(service).get(f"/v1/sweeps/{sweep}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = parsed(answer.text)
    assert [kind for kind, _ in found] == ["state", "progress", "trial", "state"]
    assert found[0][1]["data"]["state"] == "running"
    assert found[2][1]["data"] == {"digest": "a"}


def test_the_end_before_a_resume_is_no_end_of_the_stream(service):
    sweep, hub = service.add("local", State.STARTING, State.RUNNING), service.hub
    first = hub.publish(sweep, "state", {"state": "running"})
    for state in ("done", "queued", "running"):
        hub.publish(sweep, "state", {"state": state})
    later(hub, lambda: hub.publish(sweep, "state", {"state": "failed"}))
    answer = client_of(service).get(f"/v1/sweeps/{sweep}/events", params={"after": first.id})
    states = [event["data"]["state"] for kind, event in parsed(answer.text) if kind == "state"]
    assert states == ["running", "done", "queued", "running", "failed"]


def test_who_comes_back_gets_what_was_missed(service):
    sweep = service.add("local", State.STARTING, State.RUNNING)
    first = service.hub.publish(sweep, "trial", {"digest": "a"})
    service.hub.publish(sweep, "trial", {"digest": "b"})
    later(service.hub, lambda: service.hub.publish(sweep, "state", {"state": "failed"}))
    client = client_of(service)
    found = parsed(client.get(f"/v1/sweeps/{sweep}/events", headers={"Last-Event-ID": str(first.id)}).text)
    assert [e["data"].get("digest") for kind, e in found if kind == "trial"] == ["b"]
    assert found[0][1]["id"] == first.id  # a stream that breaks here is not ahead of what is to come


def test_the_stream_of_a_sweep_that_ended_ends_at_once(service):
    sweep = service.add("local", State.STARTING, State.DONE)
    found = parsed(client_of(service).get(f"/v1/sweeps/{sweep}/events?after=0").text)
    assert [kind for kind, _ in found] == ["progress", "state"]
    assert found[-1][1]["data"]["state"] == "done"


def test_the_stream_of_all_holds_what_one_may_see_and_ends_with_the_server(tmp_path):
    service = make_service(tmp_path, auth=True)
    mine, shared, foreign = service.add("anna"), service.add("ben", shared=True), service.add("ben")
    client = client_of(service)
    hub, closing = service.hub, client.app.state.api.closing
    later(
        service.hub,
        *(lambda s=s: hub.publish(s, "trial", {}) for s in (foreign, mine, "gone-1", shared)),
        closing.set,
    )
    answer = client.get("/v1/events", headers=service.token("anna", Role.VIEWER))
    assert [e["sweep"] for _, e in parsed(answer.text)] == [mine, shared]


def test_streams_of_one_user_and_of_all_are_bounded(tmp_path):
    service = make_service(tmp_path, auth=True)
    anna, ben = (service.token(name, Role.VIEWER) for name in ("anna", "ben"))
    client = client_of(service, Limits(streams=3, streams_each=2))
    api = client.app.state.api
    api.closing.set()  # streams end at once
    assert client.get("/v1/events", headers=anna).status_code == 200
    assert not api.streams  # it is over
    api.streams["user anna"] = 2
    sweep = service.add("anna", State.STARTING, State.DONE)
    for path in ("/v1/events", f"/v1/sweeps/{sweep}/events"):
        answer = client.get(path, headers=anna)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "30")
        assert answer.json()["detail"].startswith("2 of your event streams are open")
    assert client.get("/v1/events", headers=ben).status_code == 200
    api.streams["user ben"] = 1
    answer = client.get("/v1/events", headers=ben)
    assert (answer.status_code, answer.json()["detail"][:20]) == (429, "3 event streams are ")


def test_without_users_streams_are_counted_by_address(service):
    client = client_of(service, Limits(streams_each=1))
    client.app.state.api.closing.set()
    client.app.state.api.streams["host testclient"] = 1
    assert client.get("/v1/events").status_code == 429


def test_wrong_places_in_a_stream(service):
    client, sweep = client_of(service), service.add("local")
    for headers, query in (({"Last-Event-ID": "x"}, ""), ({}, "?after=-1"), ({}, "?after=x")):
        assert client.get(f"/v1/sweeps/{sweep}/events{query}", headers=headers).status_code == 422
