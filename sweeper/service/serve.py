"""Serves a service on a port until a signal stops it."""

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
from sweeper.service.http.peers import Connections, max_connections, networks
from sweeper.service.http.server import make_server
from sweeper.service.logs import count_repeats
from sweeper.service.pages import mount
from sweeper.service.service import Service
from sweeper.service.webhooks import Webhooks, check_prefix

_BACKLOG = 2048


@dataclass(frozen=True)
class Listening:
    """The address on which a service listens.

    Attributes:
        host: Address; any but a loopback address needs `Config.auth`.
        port: Port; the next free one if it is in use, any free one for 0.
        certificate, key: PEM files of TLS.
        webhook_secret: Secret that signs webhooks.
        proxies: Addresses and networks of proxies that name the client in X-Forwarded-For.
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
    """Serve until SIGINT or SIGTERM; the next server continues the interrupted sweeps.

    Args:
        config: Settings of the service.
        listening: Address of the server.
        say: Called with each line for the user.

    Raises:
        SpecError: A setting is wrong, or another server uses the folder.
        OSError: The server cannot listen on the host.
    """
    from dashboards.app.serve import open_socket

    if not config.auth and not is_loopback(listening.host):
        raise SpecError(f"--host {listening.host} is open to other machines: add --auth, so that users need a token")
    _check_tls(listening)
    proxies = networks(listening.proxies)
    for url in config.webhooks:
        check_prefix(url)
    if config.webhooks and not listening.webhook_secret:
        raise SpecError("--webhook needs a secret: give --webhook-secret FILE or set SWEEPER_WEBHOOK_SECRET")
    count_repeats()
    descriptors = raise_limit()
    sock = open_socket(listening.host, listening.port)
    try:
        sock.listen(_BACKLOG)
        senders: list[Webhooks] = []

        def notify(entry: Entry) -> None:
            for webhooks in senders:
                webhooks.add(entry)

        service = Service(config, notify)
        try:
            limits = limits_of(config)
            api = make_api(service, limits)
            mount(api, service)
            connections = Connections(limits, max_connections(descriptors, limits), proxies)
            _welcome(service, sock, listening, say)
            if config.webhooks:
                senders.append(
                    Webhooks(
                        service.catalog.engine,
                        config.webhooks,
                        listening.webhook_secret,
                        outward=service.views.outward.text,
                    )
                )
                senders[0].start()
            service.start()
            # exempt imported modules from collections, which would stop all threads for 0.3 s and more
            gc.collect()
            gc.freeze()
            server = make_server(Paced(api, config.folder), connections, api.state.api.closing, proxies, listening.tls)
            with suppress(KeyboardInterrupt):  # uvicorn raises it after SIGINT
                server.run(sockets=[sock])
        finally:
            for webhooks in senders:
                webhooks.close()
            service.close()
    finally:
        sock.close()


def _check_tls(listening: Listening) -> None:
    if listening.key and not listening.certificate:
        raise SpecError("--key needs --certificate")
    if listening.certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listening.certificate, listening.key, lambda: "")
    except (OSError, ssl.SSLError) as error:
        names = " and ".join(str(f) for f in (listening.certificate, listening.key) if f)
        raise SpecError(f"cannot use the certificate in {names}: {error.strerror or error}") from None


def _welcome(service: Service, sock: socket.socket, listening: Listening, say: Callable[[str], None]) -> None:
    port = sock.getsockname()[1]
    if listening.port and port != listening.port:
        say(f"port {listening.port} is in use; using the next free port {port}")
    if service.rebuilt:
        say(service.rebuilt)
    if service.config.auth and not service.users.has_admin():
        say("no admin has a token yet: `sweeper token create NAME --role admin` creates one (with this --root)")
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    say(f"{'https' if listening.certificate else 'http'}://{host}:{port}/ (Ctrl-C stops the server)")
