"""The app's HTTP server. It closes slow and idle connections to make room for others."""

from __future__ import annotations

import socket
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from sweeper.net import raise_limit

THREADS = 8
CONNECTIONS = 512
"""Maximum number of open connections; a further one replaces the longest idle one."""
IDLE_SECONDS = 30
"""Time for a complete request or for reading a response; then the connection closes [s]."""
BODY_BYTES = 1 << 20
_RESERVE = 128  # file descriptors for other uses


class _Channel(HTTPChannel):
    """Connection that limits the time of a whole request, not the time since its last byte."""

    def handle_read(self) -> None:
        began = self.last_activity if self.request is not None else None
        super().handle_read()
        if began is not None and self.request is not None:
            self.last_activity = began


class Server(TcpWSGIServer):
    """Serves an app on a listening socket.

    Args:
        app: The WSGI app.
        listening: The socket.
        idle: See `IDLE_SECONDS`.
        most: See `CONNECTIONS`.
    """

    channel_class = _Channel

    def __init__(self, app: Any, listening: socket.socket, idle: int = IDLE_SECONDS, most: int = CONNECTIONS) -> None:
        self.most = max(1, min(most, raise_limit() - _RESERVE))
        adjusted = Adjustments(
            sockets=[listening],
            threads=THREADS,
            clear_untrusted_proxy_headers=True,
            max_request_body_size=BODY_BYTES,
            channel_timeout=idle,
            cleanup_interval=min(5, idle),
            connection_limit=2 * self.most,
            asyncore_use_poll=True,  # select fails above 1,024 descriptors
        )
        name = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(app, _sock=listening, adj=adjusted, bind_socket=False, sockinfo=name)

    def handle_accept(self) -> None:
        """Accept a connection; with too many open, close the longest idle one first."""
        channels: Any = self.active_channels
        if len(channels) >= self.most:
            idle = (channel for channel in channels.values() if not channel.requests)
            oldest = min(idle, key=lambda channel: channel.last_activity, default=None)
            if oldest is not None:
                oldest.handle_close()
        super().handle_accept()
