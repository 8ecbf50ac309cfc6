"""Webhooks: signed, only where they may go, tried again, once for each end."""

import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from sweeper.client.models import State
from sweeper.errors import SpecError
from sweeper.service import webhooks
from sweeper.service.db.tables import deliveries
from sweeper.service.webhooks import TRIES, Webhooks, check_prefix, check_url
from tests.support.service_fakes import make_service


@pytest.fixture
def receiver():
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, dict(self.headers), body))
            self.send_response(server.status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.got = 200, got
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ended(tmp_path, url, state=State.DONE):
    service = make_service(tmp_path)
    sweep = service.add("anna", State.STARTING, state, webhook=url)
    return service, service.catalog.get(sweep)


def rows(service):
    with service.catalog.engine.connect() as connection:
        return connection.execute(select(deliveries)).all()


def told(hooks, receiver):
    """Wait for a message of hooks that have started, end them, and return whose it is."""
    for _ in range(100):
        if receiver.got:
            break
        threading.Event().wait(0.05)
    hooks.close()
    return json.loads(receiver.got[0][2])["sweep"]["id"]


def test_an_end_is_sent_once_and_signed(tmp_path, receiver):
    service, entry = ended(tmp_path, receiver.url)
    hooks = Webhooks(service.catalog.engine, [receiver.url], "secret")
    hooks.add(entry)
    hooks.add(entry)
    hooks.send_due()
    hooks.send_due()
    ((path, headers, body),) = receiver.got
    seconds, digest = (part.split("=")[1] for part in headers["Sweeper-Signature"].split(","))
    assert digest == hmac.new(b"secret", f"{seconds}.{body.decode()}".encode(), hashlib.sha256).hexdigest()
    told = json.loads(body)
    assert (path, told["event"], told["sweep"]["id"]) == ("/hook", "sweep.done", entry.id)
    assert rows(service)[0].ended is not None


@pytest.mark.parametrize("status", [500, 302])
def test_what_does_not_arrive_is_tried_again_later_and_given_up_at_last(tmp_path, receiver, status):
    receiver.status = status
    service, entry = ended(tmp_path, receiver.url, State.FAILED)
    now = [1000.0]
    hooks = Webhooks(service.catalog.engine, [receiver.url], "secret", lambda: now[0])
    hooks.add(entry)
    hooks.send_due()
    hooks.send_due()
    assert len(receiver.got) == 1  # not yet
    (row,) = rows(service)
    assert (row.tries, row.error, row.due) == (1, f"answered {status}", 1005.0)
    for _ in range(TRIES):
        now[0] += 4000
        hooks.send_due()
    assert len(receiver.got) == TRIES
    assert {path for path, *_ in receiver.got} == {"/hook"}  # no redirect is followed
    assert rows(service)[0].ended is not None


def test_why_a_message_did_not_arrive_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    service, entry = ended(tmp_path, "http://127.0.0.1:9/hook")
    hooks = Webhooks(service.catalog.engine, ["http://127.0.0.1:9/"], "secret")
    hooks.add(entry)
    hooks.send_due()
    assert rows(service)[0].error.startswith("ConnectionError: Connection refused")


def test_what_an_earlier_server_left_is_sent(tmp_path, receiver):
    service, entry = ended(tmp_path, receiver.url)
    hooks = Webhooks(service.catalog.engine, [receiver.url], "secret")
    hooks.start()  # the end was written, the message not
    assert told(hooks, receiver) == entry.id


def test_an_end_that_could_not_be_stored_is_sent_later(tmp_path, receiver, monkeypatch):
    service, entry = ended(tmp_path, receiver.url)
    monkeypatch.setattr(webhooks, "AGAIN_SECONDS", 0.05)
    hooks, away = Webhooks(service.catalog.engine, [receiver.url], "secret"), [True, True]

    def fail(_c, _k, statement, *_):
        if away and statement.startswith("INSERT INTO deliveries"):
            away.pop()
            raise OperationalError("insert", {}, Exception("the disk is full"))

    event.listen(service.catalog.engine, "before_cursor_execute", fail)
    hooks.add(entry)
    assert not rows(service)
    hooks.start()
    assert told(hooks, receiver) == entry.id
    assert not away


def test_a_sweep_without_webhook_or_end_is_not_told(tmp_path):
    service = make_service(tmp_path)
    hooks = Webhooks(service.catalog.engine, [], "secret")
    for states, url in (((State.STARTING, State.DONE), None), ((State.CANCELLED,), "https://a/b")):
        hooks.add(service.catalog.get(service.add("anna", *states, webhook=url)))
    assert rows(service) == []


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.lab/a", "https://hooks.lab/a/b?x=1", "http://127.0.0.1:9000/x", "http://[::1]:9000/y/z",
    ],
)  # fmt: skip
def test_addresses_that_are_allowed(url):
    check_url(url, ["https://hooks.lab/a", "http://127.0.0.1:9000/", "http://[::1]:9000/y"])


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.lab/a", "https://hooks.lab/ab", "https://hooks.lab:444/a", "https://hooks.lab.evil/a",
        "https://user:x@hooks.lab/a", "https://hooks.lab@evil/a", "https://hooks.lab/a/../b", "file:///etc/passwd",
        "https://hooks.lab/a/%2e%2e/b", "https://hooks.lab\\@evil/a", "https://hooks.lab/a b", "http://127.0.0.1/x",
        "https://hooks.lab/a/..;/b", "https://hooks.lab/a/..;x=1/b", "https://hooks.lab/a/%5c../b",
        "https://hooks.lab/a/x%5C..%5Cb", "https://hooks.lab/a/%25252e%25252E/b", "https://hooks.lab/a/%2e%2e%3b/b",
        "https://hooks.lab/a/%C0%AE%C0%AE/b", "https://hooks.lab/a/%25c0%25ae/b", "https://hooks.lab/a/%ff",
        "https://hooks.lab/a/x%2f..%2fb", "https://hooks.lab/a/.", "https://hooks.lab/a/./b", "https://hooks.lab/a/.;/b",
        "https://hooks.lab/a/\u2025/b", "https://hooks.lab/a/%EF%BC%8E%EF%BC%8E/b", "https://hooks.lab/a/%00",
        "https://hooks.lab/a;/../b", "https://hooks.lab/a%2f..%2fb", "https://hooks.lab/a/..%20/b",
        "http://169.254.169.254/", "", "https://", "https://hooks.lab:x/a", "https://[/a", "https://HOOKS.lab/b",
    ],
)  # fmt: skip
def test_addresses_that_are_not(url):
    with pytest.raises(SpecError):
        check_url(url, ["https://hooks.lab/a"])


def test_beginnings_that_cannot_be_allowed():
    check_prefix("https://hooks.lab/")
    for url in ("http://hooks.lab", "https://hooks.lab/?x", "hooks.lab", "https://hooks.lab/a/..;/", "https://h/%2e/"):
        with pytest.raises(SpecError):
            check_prefix(url)
