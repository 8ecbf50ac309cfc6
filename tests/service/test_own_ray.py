"""The Ray that a server starts for its sweeps: who can reach it, and with what."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from sweeper.client import Client
from sweeper.client.models import State
from tests.service.conftest import Server
from tests.support.drivers import check_closed, listening
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.service


def test_others_cannot_use_it_and_its_sweeps_can(serve: Callable[..., Server]) -> None:
    server = serve("--auth", RAY_AUTH_MODE="disabled", SWEEPER_SYNTHETIC_SECONDS="0.3")
    user = Client(server.url, server.token("ann"))
    sweep = user.submit({"space": "synthetic", "sampler": "random", "runner": "ray", "trials": 300, "workers": 1}).id
    assert server.process is not None
    pid = server.process.pid
    found = dict[tuple[str, int], str]()

    def finished_one() -> bool:
        time.sleep(0.5)  # looking is half a core's work
        found.update(listening(pid))
        return any(server.root.glob("*/trials/*.parquet"))

    until(finished_one, lambda: user.sweep(sweep))
    assert {"sweeper serve", "sweeper.service.scheduler.worker"} <= {
        name for name in ("sweeper serve", "sweeper.service.scheduler.worker") for by in found.values() if name in by
    }
    folder = check_closed(pid, found)
    log = server.root / ".service" / "ray.log"
    token = (server.root / ".service" / "ray.token").read_text()
    assert token not in log.read_text()
    assert json.loads((server.root / ".service" / "ray.json").read_text())["folder"] == str(folder)
    user.cancel(sweep)
    assert user.wait(sweep, timeout=PATIENCE).state == State.CANCELLED
    assert server.end(15) == 0
    assert not folder.exists()
