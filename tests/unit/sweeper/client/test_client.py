"""The client against a service that drops connections, is away, refuses, and whose trials land while they are read."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.client import Client, ClientError
from sweeper.client.models import State
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from tests.support.fake_service import DROP, FakeService, event, sweep
from tests.support.trial_rows import trial
from tests.support.waiting import PATIENCE

TOKEN = "a-token-that-nobody-may-see"
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


# -- sending ----------------------------------------------------------------------------------------------------------


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
        ("such.yaml", "give Path('such.yaml')"),
        ({"space": "synthetic", "fixed": {"a": float("nan")}}, "plain, finite values"),
        ({"space": Path("x")}, "plain, finite values"),
    ],
)
def test_what_cannot_be_sent_is_said(client: Client, spec: Any, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence.replace("(", r"\(").replace(")", r"\)")):
        client.submit(spec)


# -- tries ------------------------------------------------------------------------------------------------------------


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


# -- sentences --------------------------------------------------------------------------------------------------------


def test_every_failure_is_a_sentence(service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClientError, match=r"no answer from http://127.0.0.1:1: Connection refused; `sweeper serve`"):
        Client("http://127.0.0.1:1").sweep("x")
    for status, kind, body, sentence in (
        (200, "text/html", b"<html>hello</html>", "answers, but is no sweeper service of this version"),
        (200, "application/json", b'{"id": "x"}', "answers, but is no sweeper service of this version: name: Field"),
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
    with pytest.raises(ClientError, match="no Arrow stream"):
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
    with pytest.raises(SpecError, match="which server"):
        Client()
    with pytest.raises(SpecError, match="credentials do not belong into an address") as caught:
        Client("http://me:hush@host:8000")
    assert "hush" not in str(caught.value)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_the_token_comes_from_argument_environment_or_file(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(token: str | None = None) -> str | None:
        list(Client(service.url, token).sweeps())
        return service.seen[-1][3].get("authorization")

    assert sent() is None
    usual = tmp_path / ".config" / "sweeper" / "token"
    usual.parent.mkdir(parents=True)
    for file, token in ((usual, "usual"), (tmp_path / "other", "other")):
        file.write_text(f"{token}\n")
        file.chmod(0o600)
    assert sent() == "Bearer usual"
    monkeypatch.setenv("SWEEPER_TOKEN_FILE", str(tmp_path / "other"))
    assert sent() == "Bearer other"
    monkeypatch.setenv("SWEEPER_TOKEN", "variable")
    assert sent() == "Bearer variable"
    assert sent(TOKEN) == f"Bearer {TOKEN}"
    assert TOKEN not in repr(Client(service.url, TOKEN))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o601])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(mode)
    monkeypatch.setenv("SWEEPER_TOKEN_FILE", str(file))
    with pytest.raises(SpecError, match=rf"may be read by others \(mode {mode:o}\): chmod 600 {file}") as caught:
        Client("http://127.0.0.1:1")
    assert TOKEN not in str(caught.value)


def test_what_is_no_token_is_said_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="the token must be of letters") as caught:
        Client("http://127.0.0.1:1", f"{TOKEN}\nX-Other: 1")
    assert TOKEN not in str(caught.value)
    file = tmp_path / "token"
    monkeypatch.setenv("SWEEPER_TOKEN_FILE", str(file))
    with pytest.raises(SpecError, match=r"there is no file .*SWEEPER_TOKEN_FILE names"):
        Client("http://127.0.0.1:1")
    file.touch(0o600)
    with pytest.raises(SpecError, match="is empty"):
        Client("http://127.0.0.1:1")


def test_a_token_does_not_leave_the_machine_in_clear() -> None:
    for url in ("http://host:8000", "http://10.0.0.1"):
        with pytest.raises(SpecError, match="would get the token in clear: use https") as caught:
            Client(url, TOKEN)
        assert TOKEN not in str(caught.value)
        Client(url, TOKEN, insecure=True)
        Client(url)
    for url in ("https://host", "http://localhost:8000", "http://127.0.0.9:1", "http://[::1]:8000"):
        Client(url, TOKEN)
    with pytest.raises(SpecError, match=r"there is no /no/such.pem"):
        Client("https://host", ca="/no/such.pem")


def test_a_missing_token_is_said_with_where_it_is_read_from(service: FakeService, client: Client) -> None:
    service.fault("GET", FIRST, (401, {}, "a token is needed"))
    with pytest.raises(ClientError, match="a token is needed; the token is read from SWEEPER_TOKEN, the file"):
        client.sweep("synthetic-1")


# -- pages ------------------------------------------------------------------------------------------------------------


def test_sweeps_run_over_pages(service: FakeService, client: Client) -> None:
    service.sweeps = {f"s-{i}": sweep(f"s-{i}") for i in range(5)}
    assert [s.id for s in client.sweeps(state="queued", owner="ada")] == list(service.sweeps)
    assert [query.get("after") for query, *_ in service.asked("GET", "/v1/sweeps")] == [None, ["s-1"], ["s-3"]]
    assert service.seen[0][2]["owner"] == ["ada"]


def test_trials_that_land_between_pages_are_there_once(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    service.rows = [trial(f"c{i}", 0.1 * i, number=i) for i in range(3)]
    later = [trial("c3", 0.3, number=3), trial("c1", 0.7, number=1)]  # the last one was run again
    service.on_page = lambda: service.rows.extend(later) or later.clear()
    found = client.trials("synthetic-1")
    assert found["config"].to_pylist() == ["c0", "c2", "c3", "c1"]
    assert found["gain_mean_loss_val"].to_pylist()[-1] == 0.7
    assert client.trials("synthetic-1", columns=["number"]).column_names == ["number"]
    client.trials("synthetic-1", where={"momentum": 0.9}, outcome="ok")
    assert service.seen[-1][2]["where"] == ["momentum=0.9"]


def test_a_table_without_trials_has_its_columns(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep()
    found = client.trials("synthetic-1")
    assert found.num_rows == 0
    assert "merged_loss_val" in found.column_names


def test_trials_are_handed_on_as_they_land_until_the_end(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running")
    seen: list[str] = []

    def land() -> None:
        if len(service.rows) < 5:
            service.rows.append(trial(f"c{len(service.rows)}", 0.1))
        else:
            service.sweeps["synthetic-1"]["state"] = "done"

    service.on_page = land
    for row in client.iter_trials("synthetic-1"):
        seen.append(row["config"])
    assert seen == [f"c{i}" for i in range(5)]
    service.on_page = lambda: None
    service.sweeps["synthetic-1"]["state"] = "running"
    assert len(list(client.iter_trials("synthetic-1", follow=False))) == 5


# -- events -----------------------------------------------------------------------------------------------------------


def test_lost_events_are_asked_for_again(service: FakeService, client: Client) -> None:
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
    with pytest.raises(TimeoutError, match=r"sweep synthetic-1 is running after 0.2 s; it goes on"):
        client.wait("synthetic-1", timeout=0.2)
    silent.set()


# -- what was found ---------------------------------------------------------------------------------------------------


def test_weights_are_there_whole_or_not_at_all(service: FakeService, client: Client, tmp_path: Path) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done")
    path, weights = f"{FIRST}/best/weights", b"w" * 3_000_000
    service.answers["GET", path] = 200, "application/octet-stream", weights
    service.fault("GET", path, DROP)
    assert client.download_weights("synthetic-1", tmp_path / "w").read_bytes() == weights
    service.fault("GET", path, (404, {}, "the weights were not kept"))
    with pytest.raises(ClientError, match="the weights were not kept"):
        client.download_weights("synthetic-1", tmp_path / "none")
    with pytest.raises(SpecError, match=r"cannot write .*: No such file or directory"):
        client.download_weights("synthetic-1", tmp_path / "no" / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_what_is_asked_of_a_sweep(service: FakeService, client: Client) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done")
    advice = [{"objective": "gain_mean", "message": "m", "recommendations": [{"batch_size": 8}], "text": "t"}]
    service.answers["GET", f"{FIRST}/recommendation"] = 200, "application/json", json.dumps(advice).encode()
    (found,) = client.recommend("synthetic-1", batch_sizes=[8, 16], momentum=0.9)
    assert found.recommendations[0]["batch_size"] == 8
    assert service.seen[-1][2] == {"batch_size": ["8", "16"], "momentum": ["0.9"]}
    service.answers["GET", f"{FIRST}/report"] = 200, "text/html", "<p>η".encode()
    assert client.report("synthetic-1") == "<p>η"
    assert client.extend("synthetic-1", dry_run=True, noises=2).trials == 3
    assert service.seen[-1][2] == {"dry_run": ["true"], "noises": ["2"]}
    assert client.resume("synthetic-1", trials=9).state == State.QUEUED
    assert json.loads(service.seen[-1][4]) == {"trials": 9}
    client.resume("synthetic-1")
    assert service.seen[-1][4] == b""
    for name, ask in (("spaces", client.spaces), ("noises", client.noises), ("merges", client.merges)):
        service.answers["GET", f"/v1/{name}"] = 200, "application/json", b'[{"name": "a"}]'
        assert ask() == [{"name": "a"}]
