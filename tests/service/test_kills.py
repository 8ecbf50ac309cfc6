"""Many sweeps of several users, and a server that is killed: every sweep ends once, as if nothing had happened."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper.client import Client
from sweeper.client.models import ACTIVE, State, SweepDetail
from sweeper.config.spec import SweepSpec
from sweeper.storage.tables import read_trials
from tests.service.conftest import Server
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.service, pytest.mark.soak]

SWEEPS = {"ann": 4, "bob": 3, "cid": 3}
SPEC = {"space": "synthetic", "sampler": "random", "runner": "inline", "trials": 6}


def rows(run: Path) -> dict[str, dict[str, Any]]:
    """Return digest -> row, all columns but those of time."""
    found = read_trials(run).to_pylist()
    assert len({r["digest"] for r in found}) == len(found)
    return {r["digest"]: {k: v for k, v in r.items() if "seconds" not in k and k != "started"} for r in found}


def spans(detail: SweepDetail) -> Iterator[tuple[float, float]]:
    """Yield when a process of the sweep ran."""
    began: float | None = None
    for change in detail.transitions:
        if change.state == State.STARTING:
            began = change.time.timestamp()
        elif began is not None and change.state not in ACTIVE:
            yield began, change.time.timestamp()
            began = None


def most_at_once(found: list[tuple[float, float]]) -> int:
    return max(sum(a <= t < b for a, b in found) for t, _ in found)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_ten_sweeps_of_three_users_outlive_five_kills(
    serve: Callable[..., Server], tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    database = request.getfixturevalue("postgres").database() if kind == "postgresql" else ""
    server = serve("--auth", "--max-running", "2", database=database, SWEEPER_SYNTHETIC_SECONDS="0.25")
    tokens = {name: server.token(name, "submitter", "--quota", "running=1") for name in SWEEPS}
    users = {name: Client(server.url, token) for name, token in tokens.items()}
    sent = {
        users[name].submit({**SPEC, "seed": 10 * i + j}).id: (name, 10 * i + j)
        for i, (name, count) in enumerate(SWEEPS.items())
        for j in range(count)
    }
    moments = random.Random(7)
    total = 6 * len(sent)
    for mark in sorted(moments.sample(range(1, total - 6), 5)):
        until(lambda mark=mark: len(list(server.root.glob("*/trials/*.parquet"))) >= mark)
        time.sleep(moments.uniform(0, 0.3))
        server.end()
        server.start()
    users = {name: Client(server.url, token) for name, token in tokens.items()}
    found = {sweep: users[name].wait(sweep, timeout=PATIENCE) for sweep, (name, _) in sent.items()}
    for sweep, (_, seed) in sent.items():
        assert found[sweep].state == State.DONE, found[sweep].reason
        calm = tmp_path / f"calm-{seed}"
        sweeper.run(SweepSpec.checked({**SPEC, "seed": seed, "out": str(calm)}))
        assert rows(server.root / sweep) == rows(calm)
    every = {sweep: list(spans(detail)) for sweep, detail in found.items()}
    assert most_at_once([s for own in every.values() for s in own]) <= 2
    for name in SWEEPS:
        assert most_at_once([s for sweep, own in every.items() if sent[sweep][0] == name for s in own]) == 1
    # each user's first one starts before any user's third one
    first = {name: sorted(every[s][0][0] for s, (n, _) in sent.items() if n == name) for name in SWEEPS}
    assert max(own[0] for own in first.values()) < min(own[2] for own in first.values())
