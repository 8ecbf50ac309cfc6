"""The service on a port, until it is told to end."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweeper.errors import SpecError
from sweeper.net import is_loopback, raise_limit
from sweeper.service.api.app import limits_of, make_api
from sweeper.service.config import Config
from sweeper.service.db.sweeps import Entry
from sweeper.service.http.outgoing import Paced
from sweeper.service.http.peers import Connections, networks, room
from sweeper.service.http.server import server_of
from sweeper.service.logs import count_repeats
from sweeper.service.pages import mount
from sweeper.service.service import Service
from sweeper.service.webhooks import Webhooks, check_prefix

_BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """Where a service listens.

    Attributes:
        host: Address; one that is not this machine's alone needs `Config.auth`.
        port: The next free one is taken where it is in use; 0 takes any.
        certificate, key: PEM files of TLS.
        webhook_secret: Signs webhooks.
        proxies: Addresses and networks of proxies, which say whose request it is by X-Forwarded-For.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None
    webhook_secret: str = ""
    proxies: tuple[str, ...] = ()

    @property
    def tls(self) -> tuple[Path | None, Path | None]:
        """Files of the certificate and its key."""
        return self.certificate, self.key


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
    from dashboards.app.serve import free_socket

    if not config.auth and not is_loopback(listening.host):
        raise SpecError(f"--host {listening.host} lets others in: give --auth, so that they need a token")
    _check_tls(listening)
    proxies = networks(listening.proxies)
    for url in config.webhooks:
        check_prefix(url)
    if config.webhooks and not listening.webhook_secret:
        raise SpecError("--webhook needs a secret to sign with: --webhook-secret FILE or SWEEPER_WEBHOOK_SECRET")
    count_repeats()
    descriptors = raise_limit()
    sock = free_socket(listening.host, listening.port)
    try:
        sock.listen(_BACKLOG)
        told: list[Webhooks] = []

        def tell(entry: Entry) -> None:
            for webhooks in told:
                webhooks.tell(entry)

        service = Service(config, tell)
        try:
            limits = limits_of(config)
            api = make_api(service, limits)
            mount(api, service)
            connections = Connections(limits, room(descriptors, limits), proxies)
            _welcome(service, sock, listening, say)
            if config.webhooks:
                told.append(
                    Webhooks(
                        service.catalog.engine,
                        config.webhooks,
                        listening.webhook_secret,
                        outward=service.views.outward.text,
                    )
                )
                told[0].start()
            service.start()
            # what is imported stays: a collection that looks at it stops all threads for .3 s and more
            gc.collect()
            gc.freeze()
            server = server_of(Paced(api, config.folder), connections, api.state.api.closing, proxies, listening.tls)
            with suppress(KeyboardInterrupt):  # how it is told to end
                server.run(sockets=[sock])
        finally:
            for webhooks in told:
                webhooks.close()
            service.close()
    finally:
        sock.close()


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


def _welcome(service: Service, sock: socket.socket, listening: Listening, say: Callable[[str], None]) -> None:
    taken = sock.getsockname()[1]
    if listening.port and taken != listening.port:
        say(f"port {listening.port} is in use, this is the next free one")
    if service.rebuilt:
        say(service.rebuilt)
    if service.config.auth and not service.users.has_admin():
        say("no admin has a token yet: `sweeper token create NAME --role admin` makes one (with this --root)")
    shown = f"[{listening.host}]" if ":" in listening.host else listening.host
    say(f"{'https' if listening.certificate else 'http'}://{shown}:{taken}/ (Ctrl-C ends it)")
