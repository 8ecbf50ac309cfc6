"""A service in memory: the real catalog, users and hub, with stand-ins for what reads runs and starts processes."""

from __future__ import annotations

import io
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from starlette.testclient import TestClient

from sweeper.analysis.settings.settings import NoSettingsError
from sweeper.client.archive import pack_folder
from sweeper.client.models import (
    Advice,
    Cost,
    Extension,
    Progress,
    Quota,
    Role,
    SettingsAdvice,
    State,
    Sweep,
    SweepDetail,
    Transition,
)
from sweeper.errors import SpecError
from sweeper.service.api.app import make_api
from sweeper.service.config import Config
from sweeper.service.db.health import Health
from sweeper.service.db.sweeps import Catalog, Entry, NewSweep
from sweeper.service.db.users import Users
from sweeper.service.policy.limits import Limits
from sweeper.service.policy.space_files import SpaceFiles
from sweeper.service.views.events import Hub
from sweeper.service.views.models import Packed
from tests.support.databases import opened

HERE = "http://127.0.0.1"


class FakeViews:
    def __init__(self, catalog: Catalog, config: Config) -> None:
        self.catalog, self.run_of = catalog, config.run_of
        self.seconds = [2.0, float("nan"), 4.0]
        self.table: pa.Table | None = None
        self.asked: list[Any] = []
        self.kept: set[str] = set()

    def sweep(self, entry: Entry) -> Sweep:
        return Sweep(**self._values(entry))

    def detail(self, entry: Entry) -> SweepDetail:
        history = [
            Transition(state=State(h.state), time=datetime.fromtimestamp(h.time, UTC), cause=h.cause)
            for h in self.catalog.history(entry.id)
        ]
        return SweepDetail(**self._values(entry), spec=entry.spec, transitions=tuple(history))

    def _values(self, entry: Entry) -> dict[str, Any]:
        return {
            "id": entry.id, "name": entry.name, "owner": entry.owner, "shared": entry.shared, "space": entry.space,
            "sampler": "noise", "objective": "merged_loss", "state": entry.state, "reason": entry.reason,
            "created": datetime.fromtimestamp(entry.created, UTC), "progress": Progress(budget=entry.budget),
            "cost": Cost(), "run": entry.id, "url": f"/v1/sweeps/{entry.id}", "page": "/",
        }  # fmt: skip

    def trials(self, entry: Entry, after: int, limit: int, where: Any, columns: Any) -> tuple[pa.Table, int, bool]:
        table = self.table
        if table is None:
            table = pa.table({"digest": ["a", "b", "c"], "outcome": ["ok"] * 3, "device_seconds": self.seconds})
        for name in (*where, *(columns or ())):
            if name not in table.column_names:
                raise SpecError(f"unknown column {name!r}")
        self.asked.append((after, limit, where, columns))
        page = table.slice(after, limit)
        last = min(max(after, table.num_rows), after + limit)
        return page.select(columns) if columns else page, last, after + limit < table.num_rows

    def advice(self, entry: Entry, objectives: Any, **wanted: Any) -> list[Advice]:
        if entry.state != State.DONE:
            raise SpecError("no best noise to reach: too few trials")
        self.asked.append((objectives, wanted))
        found = {"batch_size": 256, "learning_rate": float("inf")}
        return [Advice(objective="merged_loss", message="m", recommendations=(found,), text="t")]

    def settings(self, entry: Entry, **wanted: Any) -> SettingsAdvice:
        if entry.state != State.DONE:
            raise NoSettingsError("settings need 6 viable configurations, got 0")
        self.asked.append(wanted)
        return SettingsAdvice(settings=({"noise": float("inf")},), text="t", formats={"yaml": "space: s"})

    def best(self, entry: Entry) -> dict[str, Any] | None:
        return {"digest": "a", "loss": float("nan")} if entry.state == State.DONE else None

    def weights(self, entry: Entry) -> Path | None:
        folder = self.run_of(entry.id)
        if folder not in self.kept:
            return None
        Path(folder).mkdir(exist_ok=True)
        file = Path(folder) / "w.safetensors"
        file.write_bytes(b"weights")
        return file

    def report(self, entry: Entry, server: str) -> list[bytes]:
        return [b"<!doctype html><title>", b"page</title>"]

    def plan(self, entry: Entry, options: Any) -> Extension:
        return Extension(id=entry.id, trials=6, message="6 trials")


class FakeModels:
    """Model folders as archives with one card."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []

    def pack(self, entry: Entry, name: str, rank: int | None) -> Packed:
        self.asked.append((name, rank))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "README.md").write_text("card")
            content = io.BytesIO()
            pack_folder(Path(folder), content)
        size = content.tell()
        content.seek(0)
        return Packed(content, size, None if rank is None else 0.125)


class FakeSupervisor:
    def __init__(self, catalog: Catalog) -> None:
        self.catalog, self.calls = catalog, list[Any]()
        self.late = 0.0
        """How many seconds ago it last checked its sweeps."""

    @property
    def looked(self) -> float:
        # it has no loop that fails to look, however long a test takes
        return time.monotonic() - self.late

    def wake(self) -> None:
        self.calls.append("wake")

    def stop(self, sweep: str, by: str) -> Entry:
        self.calls.append(("stop", sweep, by))
        return self.catalog.move(sweep, State.STOPPING, f"stopped by {by}")

    def cancel(self, sweep: str, by: str) -> Entry:
        self.calls.append(("cancel", sweep, by))
        return self.catalog.move(sweep, State.CANCELLED, f"cancelled by {by}")

    def resume(self, sweep: str, by: str, changes: Any, budget: int) -> Entry:
        self.calls.append(("resume", sweep, by, dict(changes)))
        return self.catalog.move(sweep, State.QUEUED, f"resumed by {by}", budget=budget)

    def extend(self, sweep: str, by: str, options: Any, trials: int) -> Entry:
        self.calls.append(("extend", sweep, by, dict(options), trials))
        return self.catalog.move(sweep, State.QUEUED, f"extended by {by}")

    def remove(self, sweep: str) -> None:
        self.calls.append(("remove", sweep))
        self.catalog.remove(sweep)


class PatientHealth(Health):
    """Waits for a look as long as a loaded machine needs; test_silent_database holds the real bound."""

    async def look(self, seconds: float = 60.0) -> str:
        return await super().look(seconds)


@dataclass
class FakeService:
    config: Config
    catalog: Catalog
    users: Users
    hub: Hub
    views: FakeViews
    supervisor: FakeSupervisor
    health: Health
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spaces = SpaceFiles(self.config.spaces)
        self.models = FakeModels()

    def token(self, name: str, role: Role, quota: Quota | None = None) -> dict[str, str]:
        """Return the headers of a new token."""
        return {"Authorization": f"Bearer {self.users.create(name, role, quota=quota)[1]}"}

    def add(self, owner: str, *states: State, **more: Any) -> str:
        """Add a sweep and lead it through states; returns its id."""
        new = {"space": "digits_cnn", "spec": {"space": "digits_cnn"}, "budget": 4, "trials": 4, **more}
        entry, _ = self.catalog.add(NewSweep(owner=owner, **new))
        for state in states:
            self.catalog.move(entry.id, state, "test")
        return entry.id


def make_service(folder: Path, **config: Any) -> FakeService:
    folder.mkdir(parents=True, exist_ok=True)
    engine = opened(folder)
    catalog = Catalog(engine)
    settings = Config(**{"root": str(folder), "rate": 0.0, **config})
    views = FakeViews(catalog, settings)
    return FakeService(
        settings, catalog, Users(engine), Hub(), views, FakeSupervisor(catalog), PatientHealth(engine, folder, None)
    )


def client_of(service: FakeService, limits: Limits | None = None, **more: Any) -> TestClient:
    return TestClient(
        make_api(cast(Any, service), limits),
        base_url=HERE,
        raise_server_exceptions=False,
        follow_redirects=False,
        **more,
    )
