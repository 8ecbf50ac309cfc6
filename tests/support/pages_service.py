"""A service of made-up sweeps with its pages, for the tests of what users see."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from sweeper.client.models import BestView, Progress, RegimeView, Role, State, Sweep
from sweeper.service.api.auth import Guard
from sweeper.service.db.audit import Audit
from sweeper.service.db.sweeps import Catalog, Entry, NewSweep
from sweeper.service.db.tables import open_database
from sweeper.service.db.users import Users
from sweeper.service.pages import mount
from sweeper.service.policy.limits import Limits
from sweeper.service.service import Service
from sweeper.service.views.outward import Outward
from sweeper.storage.tables import read_trials

REGIME = RegimeView(objective="gain_mean", noise="paper", unit="1/examples", optimum=0.0103, low=0.0071, high=0.0149)


PEOPLE = {"ann": Role.SUBMITTER, "bob": Role.VIEWER, "eve": Role.ADMIN}


@dataclass
class Made:
    """A service whose sweeps lie in `root/ID`.

    Attributes:
        root: Where the sweeps' folders are.
        auth: Whether users sign in.
        regimes: Sweep -> what was found.
        events: What the stream of events tells, as (sweep, type).
    """

    root: Path
    auth: bool = True
    regimes: dict[str, RegimeView] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    outward: Outward = field(default_factory=Outward)
    streams: int = 0

    def __post_init__(self) -> None:
        self.clock = time.time() - 8 * 3600
        self.catalog = Catalog(open_database(f"sqlite:///{self.root}/service.db"), clock=self._tick)
        self.users = Users(self.catalog.engine)
        self.tokens = {name: self.users.create(name, role)[1] for name, role in PEOPLE.items()}
        self.config, self.views = SimpleNamespace(auth=self.auth, folder=self.root), self
        self.api = FastAPI()
        self.api.add_api_route("/v1/events", self._stream)
        mount(self.api, cast(Service, self))
        audit = Audit(self.catalog.engine)
        self.api.add_middleware(Guard, users=self.users, auth=self.auth, limits=Limits(), audit=audit)

    def _tick(self) -> float:
        self.clock += 1000
        return self.clock

    def add(self, owner: str, name: str, *states: State, shared: bool = False, budget: int = 20, why: str = "") -> str:
        """Add a sweep and bring it through some states; returns its id."""
        new = NewSweep(owner, "fake_space", {"objective": "gain_mean"}, budget, budget, name=name, shared=shared)
        entry, _ = self.catalog.add(new)
        for state in states:
            self.catalog.move(entry.id, state, why)
        return entry.id

    def run_of(self, sweep: str) -> str:
        return str(self.root / sweep)

    def sweep(self, entry: Entry) -> Sweep:
        folder = self.root / entry.id
        trials = read_trials(folder) if folder.is_dir() else None
        count = trials.num_rows if trials is not None else 0
        lost = sum(o == "failed" for o in trials["outcome"].to_pylist()) if trials is not None else 0
        queue = [e.id for e in self.catalog.in_states((State.QUEUED,))]
        regime = self.regimes.get(entry.id)
        best = BestView(digest="d", config="c", objective="gain_mean", value=0.0512) if regime is not None else None
        return Sweep(
            id=entry.id,
            name=entry.name,
            owner=entry.owner,
            shared=entry.shared,
            space=entry.space,
            sampler="noise",
            objective="gain_mean",
            state=State(entry.state),
            reason=entry.reason,
            position=queue.index(entry.id) + 1 if entry.id in queue else None,
            created=datetime.fromtimestamp(entry.created, UTC),
            progress=Progress(budget=entry.budget, done=count - lost, failed=lost, trials=count),
            regime=regime,
            best=best,
            run=self.run_of(entry.id),
            url=f"/v1/sweeps/{entry.id}",
            page=f"/?run={entry.id}",
        )

    async def _stream(self) -> Any:
        async def lines() -> AsyncIterator[str]:
            self.streams += 1
            told = len(self.events)
            yield ": hello\n\n"
            try:
                while True:
                    for sweep, kind in self.events[told:]:
                        yield f"event: {kind}\ndata: {json.dumps({'sweep': sweep, 'type': kind})}\n\n"
                    told = len(self.events)
                    await asyncio.sleep(0.05)
            finally:
                self.streams -= 1

        return StreamingResponse(lines(), media_type="text/event-stream")
