"""A supervisor whose processes and clock are fakes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine

from sweeper.client.models import Progress, Quota, State, SweepRecord
from sweeper.config.spec import SweepSpec
from sweeper.errors import AwayError
from sweeper.service.db.sweeps import Catalog, Entry, NewSweep
from sweeper.service.scheduler.process import Control, Outcome
from sweeper.service.scheduler.supervisor import Supervisor
from sweeper.service.views.events import Hub
from sweeper.service.views.views import Views
from tests.support.waiting import PATIENCE, until


class Folders(Views):
    """Run folders that can be away."""

    away, trials = False, 0
    slow: threading.Event | None = None

    def conclude(self, entry: Entry) -> SweepRecord:
        if self.slow:
            self.slow.wait(PATIENCE)
        if self.away:
            raise AwayError("cannot reach s3://runs/a: timeout")
        found = SweepRecord(progress=Progress(budget=entry.budget, trials=self.trials))
        self.catalog.change(entry.id, summary=found.model_dump(mode="json"))
        return found


class Rig:
    """A supervisor whose processes are locks that this test holds."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.root, self.engine = root, engine
        (root / "state").mkdir()
        self.locks: dict[str, int] = {}
        self.specs: dict[str, str] = {}
        self.find: Callable[[], str] = lambda: "127.0.0.1:1"
        self.again()

    def again(self) -> None:
        """Go on with another server."""
        self.catalog = Catalog(self.engine)
        self.views = Folders(self.catalog, Hub(), lambda sweep: str(self.root / sweep))
        self.supervisor = Supervisor(
            self.catalog, self.views, self.root / "state", lambda: self.find(), lambda _: Quota(), 2
        )

    def start(self, control: Control, task: Mapping[str, Any], spec: str) -> Any:
        """Stand in for `Control.start`."""
        control.folder.mkdir(parents=True, exist_ok=True)
        for name in ("halt", "outcome", "begun"):
            (control.folder / name).unlink(missing_ok=True)
        control._write("task", json.dumps(dict(task)))
        lock = control._take_lock()
        if lock is None:
            return None
        self.locks[control.folder.name], self.specs[control.folder.name] = lock, spec
        return SimpleNamespace(wait=lambda: 0)

    def send(self, runner: str = "inline", **keys: Any) -> str:
        spec = SweepSpec.checked({"space": "synthetic", "trials": 4, "runner": runner, "sampler": "random", **keys})
        return self.catalog.add(NewSweep("ann", spec.space, spec.dump_explicit(), 4, 4))[0].id

    def ends(self, sweep: str, state: str = "", reason: str = "") -> None:
        """Let the process of a sweep end; without a word where no state is given."""
        control = self.supervisor.control(sweep)
        if state:
            control.end(Outcome(state, reason), control.task["attempt"])
        os.close(self.locks.pop(sweep))

    def state(self, sweep: str) -> str:
        return self.catalog.get(sweep).state

    def until(self, sweep: str, *states: State) -> Entry:
        def reached() -> bool:
            if self.state(sweep) in states:
                return True
            self.supervisor.tick()
            return False

        until(reached, lambda: self.catalog.get(sweep))
        return self.catalog.get(sweep)
