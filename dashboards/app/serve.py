"""The app on a port: the next free one where it is taken, until Ctrl-C."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any

import flask

from dashboards.app.app import make_app
from dashboards.app.compression import packed
from dashboards.app.server import Server
from dashboards.data.folders import Live, folders_at
from sweeper.net import is_loopback, is_loopback_name

TRIED = 50


def free_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first free port from `port` on; port 0 takes any.

    Raises:
        OSError: The host is not this machine's, or none of the ports is free.
    """
    last: OSError | None = None
    for candidate in range(port, port + TRIED) if port else (0,):
        try:
            kind, _, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            found = socket.socket(kind, socket.SOCK_STREAM)
        except OSError as error:
            raise OSError(f"cannot listen on {host!r}: {error.strerror or error}") from None
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except OSError as error:
            found.close()
            last = error
            if error.errno not in (98, 48, 13):  # in use (Linux, macOS), not allowed
                raise OSError(f"cannot listen on {host}, port {candidate}: {error.strerror}") from None
            continue
        return found
    raise OSError(f"no free port from {port} to {port + TRIED - 1} on {host}: {last.strerror if last else ''}")


def serve(places: Sequence[str], host: str, port: int, noise: str | None = None, say: Any = print) -> None:
    """Serve the app until it is interrupted.

    Args:
        places: Paths or URIs of run folders.
        host: Address to listen on.
        port: Another one is taken, and said, where this one is not free; 0 takes any.
        noise: Noise to show instead of the sweeps' own.
        say: Called with each line for people.

    Raises:
        SpecError: A place is not there or cannot be reached.
        OSError: The host cannot be listened on.
    """
    sys.setswitchinterval(1e-3)  # a verdict is computed in a thread: answers must not wait for it
    live = Live(folders_at(places, noise))
    live.runs(list(live.folders))
    app = make_app(live)
    app.server.after_request(packed)
    if is_loopback(host):
        app.server.before_request(refuse_other_names)
    listening = free_socket(host, port)
    taken = listening.getsockname()[1]
    if port and taken != port:
        say(f"port {port} is in use, this is the next free one")
    if not is_loopback(host):
        print(
            f"warning: listening on {host}: whoever reaches it can see these sweeps, there is no password",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{taken}/ (Ctrl-C ends it)")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page's first dozen requests come at once
    server = Server(app.server, listening)
    try:
        server.run()
    finally:
        server.close()


def refuse_other_names() -> flask.Response | None:
    """Return the refusal of a request whose Host is another site's name for this machine; None lets it through."""
    if is_loopback_name(flask.request.headers.get("Host", "")):
        return None
    return flask.Response("this app answers on loopback names only\n", 403, mimetype="text/plain")
