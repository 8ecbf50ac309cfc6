"""Answers that take long: computed once a change, few at a time; and a store that is away."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from sweeper.analysis import posterior, summary
from sweeper.analysis.evidence import plan
from sweeper.analysis.settings import advice
from sweeper.client.models import State
from sweeper.errors import AwayError, SpecError
from sweeper.service.api.app import make_api
from sweeper.service.db.sweeps import NewSweep
from sweeper.service.policy.errors import RefusedError
from sweeper.service.service import Service
from sweeper.service.views import memo, views
from sweeper.service.views.memo import Memo
from sweeper.storage.location import Place
from tests.support.real_service import add_done, make_real
from tests.support.waiting import until


class Counted:
    """A function that is counted, and waits for `go` where it is told to."""

    def __init__(self, found: Any = 1) -> None:
        self.calls, self.found, self.go = 0, found, threading.Event()
        self.go.set()

    def __call__(self) -> Any:
        self.calls += 1
        assert self.go.wait(10)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_an_answer_is_computed_once() -> None:
    kept, one, none, away = Memo(), Counted(), Counted(SpecError("too few trials")), Counted(AwayError("gone"))
    assert [kept.get("a", one) for _ in range(3)] == [1, 1, 1]
    for _ in range(2):
        with pytest.raises(SpecError, match="too few"):
            kept.get("b", none)
        with pytest.raises(AwayError):
            kept.get("c", away)
    assert (one.calls, none.calls, away.calls) == (1, 1, 2)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "KEPT", 3)
    monkeypatch.setattr(memo, "KEPT_BYTES", 20)
    kept, first = Memo(), Counted((b"x" * 5, b"x" * 3))
    for key in (0, 1, 2, 0):
        kept.get(key, first)
    assert first.calls == 4  # two of them fit
    small = Counted(())
    for key in range(10, 15):
        kept.get(key, small)
    assert len(kept._kept) == 3
    kept.get(14, small)
    assert small.calls == 5


def test_few_are_computed_and_awaited_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "WAITING", 2)
    kept, slow, found = Memo(), Counted(), list[Any]()
    slow.go.clear()

    def ask(key: int) -> None:
        try:
            found.append(kept.get(key, slow))
        except RefusedError as error:
            found.append((error.status, error.headers["Retry-After"]))

    threads = [threading.Thread(target=ask, args=(key,)) for key in (0, 1, 1, 2)]
    for thread in threads[:2]:
        thread.start()
    until(lambda: slow.calls == 2)
    for thread in threads[2:]:
        thread.start()
    until(lambda: kept._waiting == 2)
    ask(3)
    assert found == [(503, "5")]
    slow.go.set()
    for thread in threads:
        thread.join()
    assert (found[1:], slow.calls) == ([1] * 4, 3)  # two asked the same
    monkeypatch.setattr(memo, "WAITING", 0)
    ask(6)
    assert (found[-1], slow.calls) == (1, 4)  # with a free turn nobody has to wait
    monkeypatch.setattr(memo, "WAITING", 2)
    slow.go.clear()
    monkeypatch.setattr(memo, "WAIT_SECONDS", 0.01)
    threads = [threading.Thread(target=ask, args=(key,)) for key in (7, 8)]
    for thread in threads:
        thread.start()
    until(lambda: slow.calls == 6)
    ask(9)
    assert found[-1] == (503, "5")
    slow.go.set()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = make_real(tmp_path_factory.mktemp("real"))
    yield service
    service.close()


@pytest.fixture(scope="module")
def sweep(service: Service) -> str:
    return add_done(service)


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(make_api(service), base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_heavy_answers_are_computed_again_only_after_a_change(
    service: Service, sweep: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = pytest.importorskip("dashboards.page.page")
    monkeypatch.setattr(views, "STALE_SECONDS", 0.0)
    counts = dict.fromkeys(("report", "best", "recommendation", "settings", "extend"), 0)

    def counted(module: Any, name: str, what: str) -> None:
        real = getattr(module, name)

        def call(*given: Any, **more: Any) -> Any:
            counts[what] += 1
            return real(*given, **more)

        monkeypatch.setattr(module, name, call)

    monkeypatch.setattr(page, "build_sections", lambda _: {})  # seconds of figures
    counted(page, "render_page", "report")
    counted(posterior, "fit_posterior", "best")
    counted(summary, "advise", "recommendation")
    counted(advice, "advise_settings", "settings")
    counted(plan, "plan_extension", "extend")

    def ask() -> list[int]:
        url = f"/v1/sweeps/{sweep}"
        memo = [client.get(f"{url}/{p}") for p in ("report", "best", "recommendation?batch_size=64", "settings")]
        return [a.status_code for a in (*memo, client.post(f"{url}/extend?dry_run=true"))]

    first = ask()
    assert first[:2] == [200, 200]
    before = dict(counts)
    assert (ask(), counts) == (first, before)
    client.get(f"/v1/sweeps/{sweep}/recommendation?batch_size=32")
    assert counts["recommendation"] == before["recommendation"] + 1
    part = min((Path(service.config.run_of(sweep)) / "trials").iterdir())
    held = part.read_bytes()
    part.unlink()
    assert ask()[:2] == [200, 200]
    part.write_bytes(held)
    assert all(counts[what] > count for what, count in before.items())


def test_results_wait_for_the_first_look_and_lists_do_not(
    service: Service, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, _ = service.catalog.add(NewSweep("local", "synthetic", {"space": "synthetic"}, 4, 4))
    service.catalog.move(entry.id, State.STARTING, "test")
    service.catalog.move(entry.id, State.RUNNING, "test")
    slow, found = Counted(AwayError("gone")), list[int]()
    slow.go.clear()
    monkeypatch.setattr(Place, "parts", lambda *_: slow())
    asking = [
        threading.Thread(target=lambda: found.append(client.get(f"/v1/sweeps/{entry.id}/trials").status_code))
        for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    until(lambda: slow.calls == 1)
    assert client.get(f"/v1/sweeps/{entry.id}").json()["progress"]["trials"] == 0
    assert not found
    monkeypatch.setattr(views, "WAIT_SECONDS", 0.01)
    answer = client.get(f"/v1/sweeps/{entry.id}/trials")
    assert (answer.status_code, answer.json()["detail"][-28:]) == (503, "does not answer within 0.01 s"[-28:])
    slow.go.set()
    for thread in asking:
        thread.join()
    service.catalog.move(entry.id, State.FAILED, "test")
    assert (found, slow.calls) == ([503] * 3, 1)


def test_a_store_that_is_away_is_the_services_fault(
    service: Service, sweep: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get(f"/v1/sweeps/{sweep}/trials")
    looks, now = Counted(AwayError("cannot reach s3://runs/a: no route to host")), time.monotonic() + 60
    monkeypatch.setattr(Place, "parts", lambda *_: looks())
    monkeypatch.setattr(Place, "exists", lambda *_: looks())
    monkeypatch.setattr(views, "time", SimpleNamespace(monotonic=lambda: now))
    paths = ("trials", "best", "best/weights", "recommendation", "report")
    for path in paths:
        answer = client.get(f"/v1/sweeps/{sweep}/{path}")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10"), path
        assert answer.json()["detail"].endswith("storage does not answer: cannot reach s3://runs/a: no route to host")
    assert client.post(f"/v1/sweeps/{sweep}/extend?dry_run=true").status_code == 503
    assert looks.calls < len(paths)  # who asks does not wait for the same again
    assert client.get(f"/v1/sweeps/{sweep}").json()["progress"]["trials"] == 0  # of no summary; the list goes on
    assert client.get(f"/v1/sweeps/{sweep}/trials?columns=none").status_code == 503
    monkeypatch.undo()
    monkeypatch.setattr(views, "time", SimpleNamespace(monotonic=lambda: now + 1))
    assert client.get(f"/v1/sweeps/{sweep}/trials").status_code == 503
    monkeypatch.setattr(views, "time", SimpleNamespace(monotonic=lambda: now + 60))
    assert client.get(f"/v1/sweeps/{sweep}/trials?columns=none").status_code == 422
    assert len(client.get(f"/v1/sweeps/{sweep}/trials").json()["items"]) == 12


def test_an_extension_says_whether_it_is_only_requested(service: Service, client: TestClient) -> None:
    sweep = add_done(service)
    tried = client.post(f"/v1/sweeps/{sweep}/extend?dry_run=true").json()
    sent = client.post(f"/v1/sweeps/{sweep}/extend").json()
    assert (tried["dry_run"], sent["dry_run"]) == (True, False)
    assert client.get(f"/v1/sweeps/{sweep}").json()["state"] == "queued"
