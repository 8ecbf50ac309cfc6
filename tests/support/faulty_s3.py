"""An S3 that answers over HTTP on this machine and fails as often as it is told to."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class FaultyS3:
    """WSGI application around moto's: a share of the requests is refused, dropped or answered late.

    Attributes:
        share: Of the requests that fail.
        away: Whether every request is dropped.
        seen: How often what happened.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], seed: int = 0) -> None:
        self.app, self.random, self.lock = app, random.Random(seed), threading.Lock()
        self.share, self.away, self.seen = 0.0, False, Counter[str]()
        self.port = 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            fails = self.random.random() < self.share
            kind = self.random.choice(("refused", "dropped", "answer lost", "slow")) if fails else "good"
            kind = "dropped" if self.away else kind
            self.seen[kind] += 1
        if kind == "refused":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [SLOW_DOWN]
        if kind == "dropped":
            return self._hang_up(environ)
        if kind == "slow":
            time.sleep(0.5)
        answer = self.app(environ, start)
        return self._hang_up(environ) if kind == "answer lost" else answer

    def _hang_up(self, environ: dict[str, Any]) -> Iterable[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return [b""]

    @property
    def query(self) -> str:
        """What leads pyarrow to this server."""
        return f"?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"


@contextmanager
def serving(bucket: str) -> Iterator[FaultyS3]:
    """Serve an S3 with one bucket on a free port."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = FaultyS3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True
    app.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{app.port}", region_name="us-east-1").create_bucket(
            Bucket=bucket
        )
        yield app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
