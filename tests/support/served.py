"""A server of HTTP in a thread of the test, and clients that are slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.service.http.outgoing import Paced
from sweeper.service.http.peers import Connections, networks
from sweeper.service.http.server import Server, make_server
from sweeper.service.policy.limits import Limits
from tests.support.waiting import PATIENCE, until

BIG = 8 << 20


@dataclass
class Served:
    """A server that runs; `sockets` are closed with it."""

    port: int
    connections: Connections
    server: Server
    sockets: list[socket.socket] = field(default_factory=list)

    def connect(self, sent: bytes = b"", host: str = "127.0.0.1", received: int = 0) -> socket.socket:
        """Return a connection from an address of this machine, on which something is sent."""
        found = socket.socket()
        if received:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
        found.bind((host, 0))
        found.settimeout(PATIENCE)
        found.connect(("127.0.0.1", self.port))
        found.sendall(sent)
        self.sockets.append(found)
        return found

    def ask(self, path: str = "/", host: str = "127.0.0.1", headers: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Send a whole request; returns the status and the body."""
        method = "POST" if body else "GET"
        lines = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        with self.connect(f"{lines}{headers}\r\n".encode() + body, host) as found:
            answer = rest(found)
        head, _, text = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), text

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until something is so."""
        until(happened, lambda: self.connections.count)


def rest(found: socket.socket) -> bytes:
    """Return what comes until the server ends the connection."""
    parts: list[bytes] = []
    with contextlib.suppress(ConnectionError):
        while part := found.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)


class App:
    """Answers `/`, `/who`, `/big` and `/body`; `/held` once it is told to."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.held = self.done = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, body = scope["path"], b"hello"
        if path == "/who":
            body = f"{scope['scheme']} {scope['client'][0]}".encode()
        elif path == "/big":
            body = b"x" * BIG
        elif path == "/body":
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message["more_body"]:
                    break
        elif path == "/held":
            self.held += 1
            while not self.free.is_set():
                await asyncio.sleep(0.01)
        elif path == "/headers":
            while (await receive()).get("more_body"):
                pass
            body = b" ".join(name for name, _ in scope["headers"])
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.done += 1


@contextlib.contextmanager
def served(
    app: Any, folder: Path, limits: Limits, most: int = 64, proxies: tuple[str, ...] = (), **more: Any
) -> Iterator[Served]:
    """Run a server for the block."""
    trusted, closing = networks(proxies), threading.Event()
    connections = Connections(limits, most, trusted)
    server = make_server(Paced(app, folder), connections, closing, trusted, **more)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        made = Served(listening.getsockname()[1], connections, server)
        try:
            yield made
        finally:
            for found in made.sockets:
                found.close()
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()
