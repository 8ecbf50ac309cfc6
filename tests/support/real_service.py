"""A real service over a folder, without processes: its sweeps are run here, of a closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeper import run
from sweeper.client.models import State
from sweeper.config.spec import SweepSpec
from sweeper.service.config import Config
from sweeper.service.db.sweeps import NewSweep
from sweeper.service.service import Service


def make_real(root: Path, **config: Any) -> Service:
    """Return a service that nobody starts: nothing leaves its queue."""
    return Service(Config(**{"root": str(root), "rate": 0.0, **config}))


def add_done(service: Service, trials: int = 12, owner: str = "local", **keys: Any) -> str:
    """Add a sweep that is done; returns its id."""
    asked = {"space": "synthetic", "trials": trials, "runner": "inline", "sampler": "random", **keys}
    spec = SweepSpec.checked(asked)
    entry, _ = service.catalog.add(
        NewSweep(owner, spec.space, spec.dump_explicit(), spec.trials, spec.trials * spec.repeats)
    )
    run(SweepSpec.checked({**asked, "out": service.config.run_of(entry.id)}))
    for state in (State.STARTING, State.RUNNING, State.DONE):
        service.catalog.move(entry.id, state, "test")
    return entry.id


def add_ended(service: Service, owner: str = "local") -> str:
    """Add a sweep that was cancelled before it had a folder; returns its id."""
    entry, _ = service.catalog.add(NewSweep(owner, "synthetic", {"space": "synthetic"}, 4, 4))
    service.catalog.move(entry.id, State.CANCELLED, "test")
    return entry.id
