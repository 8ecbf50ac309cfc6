"""Results of a sweep: rows, regime, recommendation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.storage.location import Place, place_of
from sweeper.storage.tables import read_trials

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.regime import Regime


@dataclass
class Status:
    """Where a sweep stands, in configurations."""

    budget: int
    done: int = 0
    running: int = 0
    failed: int = 0
    pruned: int = 0
    saved_seconds: float = 0.0
    """Training time of the steps that pruned trials did not run."""
    best: float | None = None
    target: float | None = None
    warnings: dict[str, str] = field(default_factory=lambda: {})
    """Warning key -> the first trial's sentence."""
    started: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Results:
    """What a sweep found.

    Attributes:
        run: The run folder; text where it is a URI.
        trials: The trials table, one row per trial.
        objective, noise: Of the sweep.
        interrupted: Whether it was stopped by the user; `resume` continues it.
        reason: Why it ended early; empty where it did not.
        failed: Configurations that failed in this session.
    """

    run: Path | str
    trials: pa.Table
    objective: str
    noise: str
    interrupted: bool = False
    reason: str = ""
    failed: int = 0

    @property
    def regime(self) -> Regime:
        """The objective as a function of noise: optimum, interval, curve."""
        from sweeper.analysis.regime import fit_regime

        return fit_regime(self.trials, self.objective, self.noise)


def load_results(run: str | Path) -> Results:
    """Return the results that a run folder holds so far.

    Raises:
        SpecError: The folder holds no sweep.
    """
    from sweeper.storage.run_folder import stored_spec

    spec, place = stored_spec(run), place_of(run)
    return Results(path_or_uri(place), read_trials(place), spec.objective, spec.noise)


def path_or_uri(place: Place) -> Path | str:
    """Return the absolute path of a local folder, or the URI of a remote one."""
    return place.local.absolute() if place.local else place.uri
