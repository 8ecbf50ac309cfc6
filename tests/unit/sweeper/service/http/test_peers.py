"""Clients that are slow, idle or many: they cost themselves only."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.service.http import outgoing
from sweeper.service.http.peers import Connections, Peer, Stage, max_connections, networks, plain
from sweeper.service.policy.limits import Limits
from tests.support.certificates import certificate
from tests.support.served import BIG, App, Served, rest, served

HALF = b"GET / HTTP/1.1\r\nHost: 127.0"
BODY = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
SOON = Limits(header_seconds=0.3, body_seconds=0.3, write_seconds=0.3)
EACH = 8


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def patient(app: App, tmp_path: Path) -> Iterator[Served]:
    """A server of few connections whose deadlines do not come in a test."""
    with served(app, tmp_path, Limits(connections_each=EACH), most=4 * EACH) as found:
        yield found
        app.free.set()


@pytest.fixture
def strict(app: App, tmp_path: Path) -> Iterator[Served]:
    """A server whose deadlines come soon."""
    with served(app, tmp_path, SOON) as found:
        yield found


def test_who_holds_half_requests_holds_up_nobody(patient: Served) -> None:
    for sent in (HALF, b"", BODY):
        for n in range(3 * EACH):
            patient.connect(sent, f"127.0.0.{1 + n % 3}")
        assert patient.ask() == (200, b"hello")  # from the address of those
        assert patient.ask(host="127.0.0.9") == (200, b"hello")
        assert patient.connections.count <= 4 * EACH
    for _ in range(10 * EACH):
        patient.connect(HALF)
    patient.until(lambda: patient.connections.count <= 3 * EACH)
    assert patient.ask(body=b"whole", path="/body") == (200, b"whole")


def test_half_a_request_is_cut_off(strict: Served) -> None:
    idle = [strict.connect(sent) for sent in (HALF, b"", BODY, BODY.replace(b"10", b"4") + HALF)]
    for found in idle:
        rest(found)  # ends
    strict.until(lambda: strict.connections.count == 0)


@pytest.mark.parametrize("path", ["/big", "/hello"])
def test_who_does_not_read_is_cut_off_and_nobody_waits(strict: Served, app: App, path: str) -> None:
    asked = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    readers = [strict.connect(asked * (1 if path == "/big" else 3), received=4096) for _ in range(5)]
    strict.until(lambda: app.done >= len(readers))
    assert strict.ask() == (200, b"hello")
    if path == "/big":
        strict.until(lambda: strict.connections.count == 0)
        assert all(len(rest(found)) < BIG for found in readers)
        assert strict.ask("/big") == (200, b"x" * BIG)  # who reads gets all of it


def test_who_reads_slowly_gets_all(strict: Served) -> None:
    found = strict.connect(b"GET /big HTTP/1.0\r\nHost: x\r\n\r\n", received=4096)
    got = 0
    while part := found.recv(300_000):
        got += len(part)
    assert got > BIG


def test_an_answer_that_waits_is_not_in_memory(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def file(dir: Path) -> object:
        found = tempfile.TemporaryFile(dir=dir)  # noqa: SIM115
        kept.append(found.fileno())
        return found

    monkeypatch.setattr(outgoing, "TemporaryFile", file)
    with served(app, tmp_path, Limits()) as found:
        found.connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n", received=4096)
        found.until(lambda: app.done == 1)  # the app has given it away
        found.until(lambda: len(kept) == 1)
        assert not list(tmp_path.iterdir())  # the file has no name

    def full(dir: Path) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outgoing, "TemporaryFile", full)
    with served(app, tmp_path, Limits()) as found:
        slow = found.connect(b"GET /big HTTP/1.0\r\nHost: x\r\n\r\n", received=4096)
        found.until(lambda: app.done == 2)
        assert rest(slow).endswith(b"\r\n\r\n" + b"x" * BIG)


def test_connections_in_use_are_not_replaced(patient: Served, app: App) -> None:
    held = [patient.connect(b"GET /held HTTP/1.0\r\n\r\n") for _ in range(EACH)]
    patient.until(lambda: app.held == EACH)
    status, text = patient.ask()
    assert (status, text) == (503, b"the service has too many connections: try again\n")
    assert patient.ask(host="127.0.0.2") == (200, b"hello")
    app.free.set()
    assert all(rest(found).endswith(b"hello") for found in held)
    assert patient.ask() == (200, b"hello")


def test_a_trusted_proxy_says_who_asks(app: App, tmp_path: Path) -> None:
    said = "X-Forwarded-For: 9.9.9.9, 10.1.2.3\r\nX-Forwarded-Proto: https\r\n"
    with served(app, tmp_path, Limits(connections_each=EACH), 4 * EACH, ("127.0.0.2",)) as found:
        assert found.ask("/who", "127.0.0.2", said) == (200, b"https 10.1.2.3")
        assert found.ask("/who", "127.0.0.1", said) == (200, b"http 127.0.0.1")
        for _ in range(2 * EACH):
            found.connect(b"GET /held HTTP/1.0\r\n\r\n", "127.0.0.2")
        found.until(lambda: app.held == 2 * EACH)  # it has no bound of its own
        app.free.set()
    with served(app, tmp_path, Limits()) as found:
        assert found.ask("/who", "127.0.0.2", said) == (200, b"http 127.0.0.2")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 400_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 400 + b"\r\n",
        b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
        b"GET /" + b"x" * 400_000,
    ],
    ids=["long line", "many lines", "many requests", "long path"],
)
def test_a_header_and_what_waits_behind_a_request_are_bounded(patient: Served, app: App, sent: bytes) -> None:
    found = patient.connect()
    with contextlib.suppress(ConnectionError):  # it is cut off already
        found.sendall(sent)
    assert b"200 OK" not in rest(found)
    assert app.held <= 1
    patient.until(lambda: patient.connections.count == 0)


def test_lines_after_a_body_are_no_headers(patient: Served) -> None:
    sent = b"POST /headers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
    found = patient.connect(sent)
    found.sendall(b"0\r\nAuthorization: Bearer x\r\n\r\n")
    assert rest(found).endswith(b"host connection transfer-encoding")


def test_a_handshake_counts_and_has_its_time(app: App, tmp_path: Path) -> None:
    limits = Limits(connections_each=EACH, header_seconds=1.0)
    with served(app, tmp_path, limits, 4 * EACH, tls=certificate(tmp_path)) as found:
        silent = [found.connect() for _ in range(2 * EACH)]
        found.until(lambda: found.connections.count == EACH)
        for one in silent:
            rest(one)
        found.until(lambda: found.connections.count == 0)


# -- what is counted --------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(clock: Clock) -> Connections:
    return Connections(Limits(connections_each=2), 8, networks(["10.0.0.0/8"]), clock)


def cut(peers: list[Peer | None], known: Connections) -> list[int]:
    """Return which of some connections are open no more."""
    still = [peer for mine in known._of.values() for peer in mine]
    return [n for n, peer in enumerate(peers) if peer not in still]


def test_the_one_that_waits_longest_makes_room(counted: Connections, clock: Clock) -> None:
    peers = [counted.admit("1.1.1.1")]
    clock.now = 1
    peers.append(counted.admit("1.1.1.1"))
    counted.move(peers[0], Stage.IDLE)  # which had a request since
    peers.append(counted.admit("1.1.1.1"))
    assert (cut(peers, counted), counted.count) == ([1], 2)
    for peer in (peers[0], peers[2]):
        peer.answering = True
        counted.move(peer, Stage.IDLE)
    assert counted.admit("1.1.1.1") is None
    peers[0].stuck = 0.5
    assert counted.admit("1.1.1.1") is None  # it may be the network
    clock.now = 2
    assert counted.admit("1.1.1.1") is not None
    assert cut(peers, counted) == [0, 1]


def test_who_has_the_most_makes_room_for_others(counted: Connections) -> None:
    proxy = [counted.admit("10.0.0.1") for _ in range(6)]
    others = [counted.admit(f"1.1.1.{n}") for n in range(2)]
    assert None not in proxy + others
    assert counted.admit("1.1.1.9") is not None
    assert (cut(proxy, counted), cut(others, counted), counted.count) == ([0], [], 8)


def test_a_network_of_version_6_is_one_client(counted: Connections) -> None:
    peers = [counted.admit(a) for a in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")]
    assert cut(peers, counted) == [0]
    mapped = [counted.admit(a) for a in ("::ffff:1.1.1.1", "1.1.1.1", "::ffff:1.1.1.1")]
    assert cut(mapped, counted) == [0]
    assert None not in [counted.admit("::ffff:10.0.0.1") for _ in range(3)]
    assert [plain(a) for a in ("::ffff:1.2.3.4", "fe80::1%eth0", "no")] == ["1.2.3.4", "fe80::1", "no"]


@pytest.mark.parametrize(
    ("stage", "seconds"),
    [(Stage.HANDSHAKE, 10), (Stage.HEADER, 10), (Stage.BODY, 60), (Stage.IDLE, None)],
)
def test_deadlines(counted: Connections, clock: Clock, stage: Stage, seconds: float | None) -> None:
    done: list[int] = []
    peer = counted.admit("1.1.1.1", lambda: done.append(1))
    assert peer is not None
    counted.move(peer, stage)
    clock.now = (seconds or 1e6) - 0.01
    peer.moved = clock.now  # a byte now and then does not help
    counted.watch()
    assert not done
    clock.now += 0.01
    counted.watch()
    assert done == ([1] if seconds else [])
    if not seconds:
        peer.stuck = clock.now
        clock.now += 30
        counted.watch()
        assert done == [1]


def test_cut_connections_are_logged_once_a_minute(
    counted: Connections, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [r.getMessage() for r in caplog.records]

    for clock.now in (100.0, 101.0, 120.0):
        for _ in range(10):
            counted.admit("1.1.1.1")
        counted.watch()
    assert [text.rpartition("(")[2] for text in told()] == ["8 times since the last such line)"]
    clock.now = 160
    counted.watch()
    assert told()[1].endswith("(20 times since the last such line)")


def test_descriptors_leave_room_for_the_scheduler() -> None:
    assert [max_connections(n, Limits(connections=1000)) for n in (64, 1024, 4096, 1 << 16)] == [16, 256, 1000, 1000]


@pytest.mark.parametrize("text", ["proxy.lab", "", "10.0.0.0/40", "*", "1.2.3"])
def test_proxies_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match="--trusted-proxy must be an address or a network"):
        networks(["10.0.0.1", text])
