"""Sending: tries, sentences of failures, addresses."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.client import Client, ClientError
from sweeper.client.models import State
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from tests.support.fake_service import DROP, FakeService, sweep

FIRST = "/v1/sweeps/synthetic-1"
pytestmark = pytest.mark.usefixtures("quick_client")


@pytest.fixture
def client(service: FakeService) -> Iterator[Client]:
    with Client(service.url) as found:
        yield found


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, sweeper.client\n"
        "heavy = {'torch', 'ray', 'optuna', 'numpy', 'pyarrow', 'fastapi', 'sqlalchemy', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sweep_whose_answer_is_lost_is_queued_once(service: FakeService, client: Client) -> None:
    service.fault("POST", "/v1/sweeps", DROP, DROP, (503, {}, "starting"))
    sent = client.submit({"space": "synthetic"}, name="one")
    asked = service.asked("POST", "/v1/sweeps")
    assert len(asked) == 4
    assert len({headers["idempotency-key"] for _, headers, _ in asked}) == 1
    assert list(service.sweeps) == [sent.id]
    assert client.submit({"space": "synthetic"}).id != sent.id


def test_a_key_of_ones_own_is_sent(service: FakeService, client: Client) -> None:
    assert client.submit({"space": "synthetic"}, key="k").id == client.submit({"space": "synthetic"}, key="k").id
    assert list(service.keys) == ["k"]


def test_only_what_was_set_is_sent(service: FakeService, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("space: synthetic  # kept\n")
    client.submit(SweepSpec(space="synthetic", trials=4), priority=3, shared=True)
    client.submit(file)
    client.submit("space: synthetic\n")
    client.estimate({"space": "synthetic"})
    (query, headers, body), *others = service.asked("POST", "/v1/sweeps")
    assert (headers["content-type"], json.loads(body)) == ("application/json", {"space": "synthetic", "trials": 4})
    assert query == {"priority": ["3"], "shared": ["true"]}
    assert [(o[1]["content-type"], o[2]) for o in others[:2]] == [
        ("application/yaml", b"space: synthetic  # kept\n"),
        ("application/yaml", b"space: synthetic\n"),
    ]
    assert others[2][0] == {"dry_run": ["true"]}
    assert len(service.sweeps) == 3


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (Path("no/such.yaml"), "cannot read no/such.yaml: No such file or directory"),
        ("such.yaml", "use Path('such.yaml')"),
        ({"space": "synthetic", "fixed": {"a": float("nan")}}, "JSON with finite numbers"),
        ({"space": Path("x")}, "JSON with finite numbers"),
    ],
)
def test_what_cannot_be_sent_is_said(client: Client, spec: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        client.submit(spec)


def test_reading_is_tried_again_and_given_up(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep()
    service.fault("GET", FIRST, DROP, (502, {}, "a"), (504, {}, "b"), (429, {"Retry-After": "0"}, "slowly"))
    assert client.sweep("synthetic-1").state == State.QUEUED
    service.fault("GET", FIRST, *[(503, {}, "the database is away")] * 9)
    with pytest.raises(ClientError, match="the database is away") as caught:
        client.sweep("synthetic-1")
    assert (caught.value.status, caught.value.passing) == (503, True)
    assert len(service.faults["GET", FIRST]) == 3


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        ((422, {}, "trials: must be >= 1, got 0"), 1),
        ((429, {}, "the quota of 10 trials is used up"), 1),
        ((429, {"Retry-After": "3600"}, "too many requests"), 1),
        ((500, {}, "internal"), 1),
    ],
)
def test_what_stays_refused_is_not_tried_again(service: FakeService, client: Client, fault: Any, tries: int) -> None:
    service.fault("POST", "/v1/sweeps", fault)
    with pytest.raises(ClientError) as caught:
        client.submit({"space": "synthetic"})
    assert (str(caught.value), caught.value.status) == (fault[2], fault[0])
    assert caught.value.problem is not None
    assert len(service.asked("POST", "/v1/sweeps")) == tries


def test_retry_after_is_waited_for(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep()
    service.fault("GET", FIRST, (429, {"Retry-After": "1"}, "slowly"))
    started = time.monotonic()
    client.sweep("synthetic-1")
    assert time.monotonic() - started >= 1.0


def test_steering_is_not_repeated_and_deleting_is(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    for act, path in ((client.stop, "stop"), (client.cancel, "cancel"), (client.resume, "resume")):
        service.fault("POST", f"{FIRST}/{path}", DROP)
        with pytest.raises(ClientError, match="no answer from http"):
            act("synthetic-1")
        assert len(service.asked("POST", f"{FIRST}/{path}")) == 1
    service.fault("DELETE", FIRST, DROP)
    client.delete("synthetic-1")
    assert len(service.asked("DELETE", FIRST)) == 2
    with pytest.raises(ClientError, match="there is no sweep 'synthetic-1'"):
        client.delete("synthetic-1")


def test_every_failure_is_a_sentence(service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ClientError, match=r"no answer from http://127.0.0.1:1: Connection refused; check that `sweeper serve`"
    ):
        Client("http://127.0.0.1:1").sweep("x")
    for status, kind, body, sentence in (
        (200, "text/html", b"<html>hello</html>", "answers, but is not a sweeper service of this version"),
        (
            200,
            "application/json",
            b'{"id": "x"}',
            "answers, but is not a sweeper service of this version: progress: Field",
        ),
        (418, "text/html", b"<html>hello</html>", r"answers 418 .* to GET /v1/sweeps/x$"),
        (
            400,
            "application/problem+json",
            b'{"title": "a", "status": 400, "detail": "no\\n\\u001b[31m"}',
            r"^no \[31m$",
        ),
    ):
        service.answers["GET", "/v1/sweeps/x"] = status, kind, body
        with pytest.raises(ClientError, match=sentence) as caught:
            client.sweep("x")
        assert "\n" not in str(caught.value)
    service.sweeps["x"] = sweep("x")
    service.answers["GET", "/v1/sweeps/x/trials"] = 200, "text/plain", b"hello"
    with pytest.raises(ClientError, match="not an Arrow stream"):
        client.trials("x")
    monkeypatch.setattr("sweeper.client.transport.TRIES", 1)
    service.streams.append([lambda: time.sleep(0.5)])
    del service.answers["GET", "/v1/sweeps/x"]
    service.on_page = lambda: time.sleep(0.5)
    del service.answers["GET", "/v1/sweeps/x/trials"]
    with pytest.raises(ClientError, match=r"does not answer within 0.1 s"):
        Client(service.url, timeout=0.1).trials("x")


def test_a_redirect_is_not_followed(service: FakeService, client: Client) -> None:
    service.fault("GET", FIRST, (301, {"Location": "https://elsewhere/"}, "moved"))
    with pytest.raises(ClientError, match="moved"):
        client.sweep("synthetic-1")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:8000", "http://host:8000"),
        ("https://host/", "https://host"),
        ("https://host/sweeps/v1/", "https://host/sweeps"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_addresses(text: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Client(text).url == address
    monkeypatch.setenv("SWEEPER_SERVER", text)
    assert Client().url == address


@pytest.mark.parametrize("text", ["ftp://host", "http://", "http://host:port", "http://host?x=1", "/folder"])
def test_addresses_of_another_kind_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="must be a URL, such as http://HOST:8000, got"):
        Client(text)


def test_no_address_and_secrets_in_one_are_said() -> None:
    with pytest.raises(SpecError, match="no server given"):
        Client()
    with pytest.raises(SpecError, match="the server's URL must not hold credentials") as caught:
        Client("http://me:hush@host:8000")
    assert "hush" not in str(caught.value)
