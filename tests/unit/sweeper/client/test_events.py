"""Streams of events that break, and waiting for the end of a sweep."""

import threading
import time
from collections.abc import Iterator

import pytest

from sweeper.client import Client, ClientError
from sweeper.client.models import State
from tests.support.fake_service import FakeService, event, sweep
from tests.support.waiting import PATIENCE

FIRST = "/v1/sweeps/synthetic-1"
pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.url) as found:
        yield found


def test_lost_events_are_requested_again(service: FakeService, client: Client) -> None:
    service.streams.extend(
        [
            ["hello", event(1, "state", state="running"), event(2, "trial", value=1.0), None],
            [event(3, "trial", value=2.0)],  # the server is restarted
            [event(4, "progress", done=2), event(5, "state", state="done")],
        ]
    )
    service.fault("GET", f"{FIRST}/events", "")  # the first one is well
    service.fault("GET", f"{FIRST}/events", (503, {}, "starting"))
    assert [e.id for e in client.events("synthetic-1")] == [1, 2, 3, 4, 5]
    resumed = [headers.get("last-event-id") for _, headers, _ in service.asked("GET", f"{FIRST}/events")]
    assert resumed == [None, "2", "2", "3"]


def test_an_end_in_the_history_is_not_the_end(service: FakeService, client: Client) -> None:
    service.streams.append([event(1, "state", state="done"), event(2, "state", state="queued"), None])
    service.streams.append([event(3, "state", state="cancelled")])
    assert [e.id for e in client.events("synthetic-1", after=0)] == [1, 2, 3]
    assert service.seen[0][3]["last-event-id"] == "0"


def test_events_of_a_sweep_that_is_not_there(service: FakeService, client: Client) -> None:
    service.fault("GET", f"{FIRST}/events", (404, {}, "there is no sweep"))
    with pytest.raises(ClientError, match="there is no sweep"):
        list(client.events("synthetic-1"))


def test_a_service_that_stays_away_is_given_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.client.events.AWAY_SECONDS", 0.05)
    with pytest.raises(ClientError, match="no answer from"):
        list(Client("http://127.0.0.1:1").events())


def test_waiting_hands_on_events_and_survives_a_lost_end(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    end = lambda: service.sweeps["synthetic-1"].update(state="done")  # noqa: E731
    service.streams.append([event(1, "trial", value=1.0), end, "still here", lambda: time.sleep(0.2)])
    heard: list[int] = []
    assert client.wait("synthetic-1", listener=lambda e: heard.append(e.id)).state == State.DONE
    assert heard == [1]
    assert client.wait("synthetic-1").state == State.DONE
    assert len(service.asked("GET", f"{FIRST}/events")) == 1


def test_waiting_has_an_end(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    silent = threading.Event()
    service.streams.append([lambda: silent.wait(PATIENCE)])
    with pytest.raises(TimeoutError, match=r"sweep synthetic-1 is running after 0.2 s; it continues"):
        client.wait("synthetic-1", timeout=0.2)
    silent.set()
