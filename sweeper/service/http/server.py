"""The HTTP server: counts connections from the moment it accepts them, and ends streams before it stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from sweeper.errors import shortage
from sweeper.service.http.peers import Connection, Connections, Network, Peer

GRACE_SECONDS = 5
_AT_ONCE = 32  # connections accepted in a row before open ones get their turn
_PAUSE_SECONDS = 1.0
_TICKS = 5  # tenths of a second between checks of deadlines
_BUSY = b"the service has too many connections: try again\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY)
)
_log = logging.getLogger("sweeper.service")


class Server(uvicorn.Server):
    """A uvicorn server that accepts and counts connections itself, and ends streams before it stops.

    Args:
        config: Configuration of uvicorn.
        closing: Set when streams must end.
        connections: The open connections and their limits.
    """

    def __init__(self, config: uvicorn.Config, closing: threading.Event, connections: Connections) -> None:
        super().__init__(config)
        self._closing, self._connections = closing, connections
        self._listening: list[socket.socket] = []
        self._greeted: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await self.lifespan.startup()
        self.servers = []
        self._listening = sockets or []
        for listening in self._listening:
            listening.setblocking(False)
            self._listen(listening)
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, end open streams and handshakes, and wait for the rest."""
        self._closing.set()
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
        self._listening = []
        self._connections.end_handshakes()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Check the deadlines of connections periodically."""
        if counter % _TICKS == 0:
            self._connections.watch()
        return await super().on_tick(counter)

    def _listen(self, listening: socket.socket) -> None:
        if not self._closing.is_set():
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_AT_ONCE):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("accepting no connections for %g s: %s", _PAUSE_SECONDS, shortage(error) or error)
                loop.remove_reader(listening)
                loop.call_later(_PAUSE_SECONDS, self._listen, listening)
                return
            peer = self._connections.admit(address[0])
            if peer is None:
                self._refuse(accepted)
                continue
            peer.cut = partial(_hang_up, accepted)
            task = loop.create_task(self._greet(accepted, peer))
            self._greeted.add(task)
            task.add_done_callback(self._greeted.discard)

    def _refuse(self, accepted: socket.socket) -> None:
        with accepted:
            accepted.setblocking(False)
            if self.config.ssl is None:
                with suppress(OSError):
                    accepted.send(_REFUSAL)

    async def _greet(self, accepted: socket.socket, peer: Peer) -> None:
        options: dict[str, Any] = {"config": self.config, "server_state": self.server_state}
        options["app_state"] = self.lifespan.state
        secure = {"ssl": self.config.ssl, "ssl_handshake_timeout": self._connections.limits.header_seconds}
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(peer, self._connections, **options), accepted, **secure if self.config.ssl else {}
            )
        except OSError:  # the handshake failed or was cut off
            self._connections.leave(peer)
            accepted.close()


def _hang_up(accepted: socket.socket) -> None:
    with suppress(OSError):
        accepted.shutdown(socket.SHUT_RDWR)


def make_server(
    app: ASGIApp,
    connections: Connections,
    closing: threading.Event,
    proxies: Sequence[Network] = (),
    tls: tuple[Path | None, Path | None] = (None, None),
) -> Server:
    """Return a server; its `run` starts it.

    Args:
        app: The app.
        connections: The open connections and their limits.
        closing: Set when streams must end.
        proxies: Networks whose X-Forwarded-For headers are trusted.
        tls: Files of the certificate and its key; plain HTTP without a certificate.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_level="warning",
        use_colors=False,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=[str(network) for network in proxies],
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=tls[0],
        ssl_keyfile=tls[1],
    )
    return Server(config, closing, connections)
