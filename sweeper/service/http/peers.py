"""Connections: limits on their number per client, and deadlines for slow clients.

A client that sends a request too slowly, or does not read its answer, is cut off after a deadline. If a client has the
maximum number of connections, a new one replaces the one that has waited longest for the client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sweeper.errors import SpecError
from sweeper.service.logs import COUNTED
from sweeper.service.policy.limits import Limits

Network = IPv4Network | IPv6Network
CONNECTION = "sweeper.connection"
"""Key of a request's scope: its `Connection`."""
RESERVE = 512
"""File descriptors reserved for the scheduler, the database and the run folders."""
EACH_CONNECTION = 2
"""Descriptors of a connection: its socket, and the file that it sends."""
SLOW_SECONDS = 1.0
"""Time without progress after which a connection may be replaced."""
_HEADERS, _PIPELINED = 200, 16
_LOG_SECONDS = 60.0
_log = logging.getLogger("sweeper.service")


class Stage(StrEnum):
    """What a connection expects from its client next."""

    HANDSHAKE = "TLS handshake"
    HEADER = "header"
    BODY = "body"
    IDLE = "request"


@dataclass(eq=False)
class Peer:
    """One connection, from the moment it is accepted.

    Attributes:
        client: Client under which it is counted.
        cut: Ends it at once.
        stage: What it expects next.
        since: Start of this stage.
        moved: Time at which the last bytes of the request came.
        stuck: Time since which the client has not read the answer; None while it reads.
        answering: Whether a request is being answered.
        capped: Whether the number of the client's connections is limited.
    """

    client: str
    cut: Callable[[], object]
    stage: Stage = Stage.HANDSHAKE
    since: float = 0.0
    moved: float = 0.0
    stuck: float | None = None
    answering: bool = False
    capped: bool = True
    look: Callable[[float], None] = lambda _: None

    def waits(self, now: float) -> bool:
        """Whether the service waits for the client; if so, the connection may be replaced."""
        self.look(now)
        if self.stuck is not None:
            return now - self.stuck >= SLOW_SECONDS
        if self.stage == Stage.BODY:
            return now - self.moved >= SLOW_SECONDS
        return self.stage in (Stage.HANDSHAKE, Stage.HEADER) or not self.answering


class Connections:
    """The open connections of a server; used in its event loop only.

    Args:
        limits: Numbers and deadlines.
        most: Maximum number of connections of all clients.
        proxies: Addresses and networks of proxies, which have no limit per client; see `networks`.
        clock: Returns seconds.
    """

    def __init__(
        self,
        limits: Limits,
        most: int,
        proxies: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits, self.most, self.proxies, self.clock = limits, most, tuple(proxies), clock
        self.each = max(1, min(limits.connections_each, most // 4))
        self.count = 0
        self._of: dict[str, dict[Peer, None]] = {}  # client -> its connections, least recently changed first
        self._unlogged: Counter[str] = Counter()
        self._log_at = 0.0

    def admit(self, address: str, cut: Callable[[], object] = lambda: None) -> Peer | None:
        """Return a new connection, which may replace another one; None if the limits allow none.

        Args:
            address: Address of the client.
            cut: Ends the connection.
        """
        now = self.clock()
        client, capped = self._client(address)
        mine = self._of.get(client, {})
        if capped and len(mine) >= self.each and not self._replace(mine, now):
            return self._refuse(f"one client has {self.each} connections in use, which is its limit")
        if self.count >= self.most:
            largest = max(self._of.values(), key=len)
            if not self._replace(mine if len(mine) >= len(largest) else largest, now):
                return self._refuse(f"{self.most} connections are in use, which is the limit")
        peer = Peer(client, cut, since=now, moved=now, capped=capped)
        self._of.setdefault(client, {})[peer] = None
        self.count += 1
        return peer

    def leave(self, peer: Peer) -> None:
        """Remove a connection that ended."""
        mine = self._of.get(peer.client, {})
        if peer in mine:
            del mine[peer]
            self.count -= 1
            if not mine:
                del self._of[peer.client]

    def move(self, peer: Peer, stage: Stage) -> None:
        """Set what a connection expects from now on."""
        peer.stage, peer.since = stage, self.clock()
        peer.moved = peer.since
        mine = self._of.get(peer.client, {})
        if peer in mine:
            del mine[peer]
            mine[peer] = None

    def watch(self) -> None:
        """Cut off connections whose deadline has passed."""
        now = self.clock()
        for peer in [peer for mine in self._of.values() for peer in mine]:
            peer.look(now)
            if reason := self._overdue(peer, now):
                self.cut(peer, reason)
        if self._unlogged and now >= self._log_at:
            self._log_at = now + _LOG_SECONDS
            for reason, count in self._unlogged.items():
                text = "connections: %s (%d times since the last such line)"
                _log.warning(text, reason, count, extra={COUNTED: True})
            self._unlogged.clear()

    def cut(self, peer: Peer, reason: str) -> None:
        """End a connection at once; the log gets a summary once a minute."""
        self._unlogged[reason] += 1
        self.leave(peer)
        peer.cut()

    def end_handshakes(self) -> None:
        """Cut off connections that are still in their handshake."""
        for peer in [p for mine in self._of.values() for p in mine if p.stage == Stage.HANDSHAKE]:
            self.leave(peer)
            peer.cut()

    def _overdue(self, peer: Peer, now: float) -> str:
        limits = self.limits
        if peer.stuck is not None and now - peer.stuck >= limits.write_seconds:
            return f"cut off: the client read nothing for {limits.write_seconds:g} s"
        deadlines = {
            Stage.HANDSHAKE: limits.header_seconds,
            Stage.HEADER: limits.header_seconds,
            Stage.BODY: limits.body_seconds,
        }
        if peer.stage in deadlines and now - peer.since >= deadlines[peer.stage]:
            return f"cut off: no complete {peer.stage.value} within {deadlines[peer.stage]:g} s"
        return ""

    def _replace(self, mine: Iterable[Peer], now: float) -> bool:
        for peer in mine:
            if peer.waits(now):
                self.cut(peer, "cut off for a new connection of this client, or of a client with fewer")
                return True
        return False

    def _refuse(self, reason: str) -> None:
        self._unlogged[f"refused: {reason}"] += 1

    def _client(self, address: str) -> tuple[str, bool]:
        try:
            host = ip_address(plain(address))
        except ValueError:
            return address, True
        capped = not any(host in network for network in self.proxies)
        # an IPv6 host has a whole /64 network
        client = ip_network((host, 64), strict=False) if isinstance(host, IPv6Address) and capped else host
        return str(client), capped


def plain(address: str) -> str:
    """Return an address without its zone, and an IPv4-mapped IPv6 address as IPv4."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    inner = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return str(inner or parsed)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of texts such as `10.0.0.1` or `10.0.0.0/8`.

    Raises:
        SpecError: A text is neither an address nor a network.
    """
    parsed: list[Network] = []
    for text in texts:
        try:
            parsed.append(ip_network(text.strip(), strict=False))
        except ValueError:
            raise SpecError(
                f"--trusted-proxy must be an address or a network such as 10.0.0.0/8, got {text!r}"
            ) from None
    return tuple(parsed)


def max_connections(descriptors: int, limits: Limits) -> int:
    """Return the number of connections that a limit of file descriptors allows."""
    reserve = min(RESERVE, descriptors // 2)
    return max(1, min(limits.connections, (descriptors - reserve) // EACH_CONNECTION))


class Connection(HttpToolsProtocol):
    """HTTP protocol of one connection, which updates its peer."""

    transport: Any  # sockets, with and without TLS

    def __init__(self, peer: Peer, connections: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._peer, self._connections = peer, connections
        self._received = self._count = 0  # bytes and lines of the current header

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a header."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if self.client is not None:
            self.client = (plain(self.client[0]), self.client[1])
        self._peer.cut, self._peer.look = self.transport.abort, self._look
        self._connections.move(self._peer, Stage.HEADER)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection."""
        self._connections.leave(self._peer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.transport.is_closing():
            return
        if self._peer.stage == Stage.IDLE:
            self._connections.move(self._peer, Stage.HEADER)
        self._peer.moved = self._connections.clock()
        super().data_received(data)
        if self._peer.stage == Stage.HEADER:
            self._received += len(data)
            if self._received > self._connections.limits.header:
                self.send_400_response("The header of the request is too large.")

    def send_400_response(self, msg: str) -> None:
        """Refuse a malformed request, and end the connection."""
        if self._answering():
            self.transport.abort()  # the response would end up inside another answer
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._received = self._count = 0
        self._connections.move(self._peer, Stage.HEADER)
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the header; drop lines after the body."""
        if self._peer.stage != Stage.HEADER:
            return
        self._count += 1
        if self._count > _HEADERS:
            raise ValueError(f"a header with more than {_HEADERS} lines")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start to answer."""
        self._connections.move(self._peer, Stage.BODY)
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError(f"more than {_PIPELINED} pipelined requests")
        super().on_headers_complete()
        self._peer.answering = self._answering()

    def on_message_complete(self) -> None:
        """Record that the request is complete."""
        self._connections.move(self._peer, Stage.IDLE)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Record that an answer is written."""
        super().on_response_complete()
        self._peer.answering = self._answering()
        if self._peer.stage == Stage.IDLE:
            self._connections.move(self._peer, Stage.IDLE)

    def resume_writing(self) -> None:
        """Resume sending."""
        self._peer.stuck = None
        super().resume_writing()

    @property
    def slow(self) -> bool:
        """Whether the client has not read the last bytes yet."""
        return self.flow.write_paused

    def cut(self, reason: str) -> None:
        """End the connection at once."""
        self._connections.cut(self._peer, reason)

    def _answering(self) -> bool:
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _look(self, now: float) -> None:
        peer = self._peer
        if self.transport.get_write_buffer_size() == 0:
            peer.stuck = None
        elif peer.stuck is None:
            peer.stuck = now
        if self.flow.read_paused:  # the service pauses reading, so the client's deadline pauses, too
            peer.since = peer.moved = now
