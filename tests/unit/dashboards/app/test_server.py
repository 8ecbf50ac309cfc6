"""The app's server: clients that are slow or idle, and names that are not this machine's."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import flask
import pytest

pytest.importorskip("waitress")
from dashboards.app.serve import open_socket, refuse_other_names
from dashboards.app.server import BODY_BYTES, Server
from tests.support.waiting import PATIENCE, until

MOST = 8
HALF = b"GET / HTTP/1.1\r\nHost: 127"


@contextlib.contextmanager
def served(idle: int = 30) -> Iterator[int]:
    app = flask.Flask("app")
    app.before_request(refuse_other_names)
    app.add_url_rule("/", view_func=lambda: "hello")
    app.add_url_rule("/", view_func=lambda: flask.request.data, methods=["POST"], endpoint="post")
    listening = open_socket("127.0.0.1", 0)
    server = Server(app, listening, idle, MOST)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.asyncore.close_all(server._map)  # which ends its loop
        thread.join(PATIENCE)
        server.task_dispatcher.shutdown()
        assert not thread.is_alive()


def connect(port: int, sent: bytes) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    found.sendall(sent)
    return found


def rest(found: socket.socket) -> bytes:
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionError), found:
        while part := found.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def ask(port: int, host: str = "127.0.0.1", **more: Any) -> bytes:
    return rest(connect(port, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()))


def test_half_requests_hold_up_nobody() -> None:
    with served() as port, contextlib.ExitStack() as stack:
        for _ in range(4 * MOST):
            stack.enter_context(connect(port, HALF))
        assert ask(port).endswith(b"hello")


def test_a_trickle_is_no_request() -> None:
    with served(idle=1) as port, connect(port, HALF) as found:

        def ended() -> bool:
            found.settimeout(0.1)
            try:
                found.sendall(b".")
                return found.recv(100) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(ended)


@pytest.mark.parametrize("host", ["evil.example", "evil.example@127.0.0.1", ""])
def test_other_names_are_refused(host: str) -> None:
    with served() as port:
        assert b"403 FORBIDDEN" in ask(port, host)
        assert b"200 OK" in ask(port, "localhost:80")


def test_large_bodies_are_refused() -> None:
    with served() as port:
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {BODY_BYTES + 1}\r\n\r\n".encode()
        assert b"413" in rest(connect(port, head)).partition(b"\r\n")[0]
