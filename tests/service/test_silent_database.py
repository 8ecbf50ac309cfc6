"""A PostgreSQL that is stopped neither answers nor refuses: the service says so at once, and recovers by itself."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from sweeper.client import Client
from sweeper.client.models import State
from tests.service.conftest import Server
from tests.support.postgres import Postgres
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.service

SPEC = {"space": "synthetic", "sampler": "random", "runner": "inline", "trials": 8}
HANGS = PATIENCE
"""Time [s] after which a request counts as one that hangs."""


def asked(url: str) -> tuple[int, str]:
    """Return status and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=HANGS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def until_ready(server: Server) -> None:
    until(lambda: asked(f"{server.url}/readyz")[0] == 200, lambda: asked(f"{server.url}/readyz"))


def test_a_silent_database_is_reported_at_once_and_outlasted(serve: Callable[..., Server], postgres: Postgres) -> None:
    server = serve("--max-running", "2", database=postgres.database(), SWEEPER_SYNTHETIC_SECONDS="0.3")
    until_ready(server)
    with Client(server.url) as client:
        sent = [client.submit({**SPEC, "seed": seed}).id for seed in range(4)]
    until(lambda: len(list(server.root.glob("*/trials/*.parquet"))) >= 3)
    with postgres.silent():
        for path in ("/readyz", "/v1/me", "/v1/sweeps", "/", "/readyz", "/v1/me", "/"):
            began = time.monotonic()
            status, text = asked(f"{server.url}{path}")
            print(f"{path}: {status} after {time.monotonic() - began:.2f} s")
            if path != "/" or status != 200:  # a page may know all that it shows
                assert (status, "database" in text) == (503, True), (path, status, text)
        assert asked(f"{server.url}/healthz")[0] == 200
    until_ready(server)
    with Client(server.url) as client:
        found = [client.wait(sweep, timeout=PATIENCE) for sweep in sent]
    assert [(one.state, one.reason) for one in found] == [(State.DONE, "all trials have run")] * len(sent)
    causes = {change.cause for one in found for change in one.transitions}
    assert not any("died" in cause for cause in causes), causes
    assert server.process is not None
    assert server.process.poll() is None  # it has its database still
