"""Serves the app on a port, or on the next free one, until Ctrl-C."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any

import flask

from dashboards.app.app import make_app
from dashboards.app.compression import compress_response
from dashboards.app.server import Server
from dashboards.data.folders import Live, open_folders
from sweeper.errors import SpecError
from sweeper.net import is_loopback, is_loopback_name

TRIED = 50


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first free port from `port` on; 0 takes any port.

    Raises:
        OSError: This machine does not have that host, or no port is free.
    """
    last: OSError | None = None
    for candidate in range(port, port + TRIED) if port else (0,):
        try:
            kind, _, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(kind, socket.SOCK_STREAM)
        except OSError as error:
            raise OSError(f"cannot listen on {host!r}: {error.strerror or error}") from None
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError as error:
            listening.close()
            last = error
            if error.errno not in (98, 48, 13):  # in use (Linux, macOS), no permission
                raise OSError(f"cannot listen on {host}, port {candidate}: {error.strerror}") from None
            continue
        return listening
    raise OSError(f"no free port from {port} to {port + TRIED - 1} on {host}: {last.strerror if last else ''}")


def serve(places: Sequence[str], host: str, port: int, noise: str | None = None, say: Any = print) -> None:
    """Serve the app until it is interrupted.

    Args:
        places: Paths or URIs of run folders.
        host: Address to listen on.
        port: First port to try; 0 takes any free port.
        noise: Noise to show instead of the sweeps'.
        say: Called with each line of output.

    Raises:
        SpecError: A place does not exist or cannot be reached.
        OSError: The app cannot listen on the host.
    """
    sys.setswitchinterval(1e-3)  # requests must not wait for the thread that computes a verdict
    live = Live(open_folders(places, noise))
    for run in live.runs(list(live.folders)).values():
        if not run.spec and not run.tables["trials"].num_rows:
            raise SpecError(f"{run.place} holds no sweep; name the folder that `sweeper run --out` wrote")
    app = make_app(live)
    app.server.after_request(compress_response)
    if is_loopback(host):
        app.server.before_request(refuse_other_names)
    listening = open_socket(host, port)
    chosen = listening.getsockname()[1]
    if port and chosen != port:
        say(f"port {port} is in use, this is the next free one")
    if not is_loopback(host):
        print(
            f"warning: listening on {host} without a password: everyone who reaches it can see these sweeps",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{chosen}/ (Ctrl-C stops it)")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page starts with a dozen requests at once
    server = Server(app.server, listening)
    try:
        server.run()
    finally:
        server.close()


def refuse_other_names() -> flask.Response | None:
    """Refuse a request whose Host header is not a loopback name; None lets it pass."""
    if is_loopback_name(flask.request.headers.get("Host", "")):
        return None
    return flask.Response("this app answers on loopback names only\n", 403, mimetype="text/plain")
