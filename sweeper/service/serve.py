"""The service on a port, until it is told to end."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import uvicorn
from fastapi import FastAPI

from sweeper.http_parts import is_loopback
from sweeper.specfile import SpecError

from .app import make_api
from .catalog import Entry
from .logs import count_repeats
from .pages import mount
from .service import Config, Service
from .webhooks import Webhooks, check_prefix

GRACE_SECONDS = 5
_BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """Where a service listens.

    Attributes:
        host: Address; one that is not this machine's alone needs `Config.auth`.
        port: The next free one is taken where it is in use; 0 takes any.
        certificate, key: PEM files of TLS.
        webhook_secret: Signs webhooks.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None
    webhook_secret: str = ""


class _Server(uvicorn.Server):
    """Ends streams before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, closing: threading.Event) -> None:
        super().__init__(config)
        self._closing = closing

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop listening, end what is open, and wait for the rest."""
        self._closing.set()
        await super().shutdown(sockets)


def serve(config: Config, listening: Listening, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; the sweeps that run are interrupted and go on with the next server.

    Args:
        config: Of the service.
        listening: Where it listens.
        say: Called with each line for people.

    Raises:
        SpecError: What is asked for cannot be served, or another server uses the folder.
        OSError: The host cannot be listened on.
    """
    from dashboards.serve import free_socket

    if not config.auth and not is_loopback(listening.host):
        raise SpecError(f"--host {listening.host} lets others in: give --auth, so that they need a token")
    _check_tls(listening)
    for url in config.webhooks:
        check_prefix(url)
    if config.webhooks and not listening.webhook_secret:
        raise SpecError("--webhook needs a secret to sign with: --webhook-secret FILE or SWEEPER_WEBHOOK_SECRET")
    count_repeats()
    sock = free_socket(listening.host, listening.port)
    try:
        sock.listen(_BACKLOG)
        told: list[Webhooks] = []

        def tell(entry: Entry) -> None:
            for webhooks in told:
                webhooks.tell(entry)

        service = Service(config, tell)
        try:
            api = make_api(service)
            mount(api, service)
            _welcome(service, sock, listening, say)
            if config.webhooks:
                told.append(Webhooks(service.catalog.engine, config.webhooks, listening.webhook_secret))
                told[0].start()
            service.start()
            _run(api, sock, listening)
        finally:
            for webhooks in told:
                webhooks.close()
            service.close()
    finally:
        sock.close()


def _run(api: FastAPI, sock: socket, listening: Listening) -> None:
    config = uvicorn.Config(
        api,
        lifespan="off",
        ws="none",
        log_level="warning",
        use_colors=False,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.key,
    )
    try:
        _Server(config, api.state.api.closing).run(sockets=[sock])
    except KeyboardInterrupt:
        return  # how it is told to end


def _check_tls(listening: Listening) -> None:
    if listening.key and not listening.certificate:
        raise SpecError("--key belongs to a --certificate")
    if listening.certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listening.certificate, listening.key, lambda: "")
    except (OSError, ssl.SSLError) as error:
        names = " and ".join(str(f) for f in (listening.certificate, listening.key) if f)
        raise SpecError(f"cannot use the certificate in {names}: {error.strerror or error}") from None


def _welcome(service: Service, sock: socket, listening: Listening, say: Callable[[str], None]) -> None:
    taken = sock.getsockname()[1]
    if listening.port and taken != listening.port:
        say(f"port {listening.port} is in use, this is the next free one")
    if service.config.auth and not service.users.has_admin():
        say("no admin has a token yet: `sweeper token create NAME --role admin` makes one (with this --root)")
    shown = f"[{listening.host}]" if ":" in listening.host else listening.host
    say(f"{'https' if listening.certificate else 'http'}://{shown}:{taken}/ (Ctrl-C ends it)")
