"""Results of a sweep: rows, regime, recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.storage.location import Place, place_of
from sweeper.storage.tables import read_trials

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.regime import Regime


@dataclass(frozen=True)
class Results:
    """Results of a sweep.

    Attributes:
        run: The run folder; text if it is a URI.
        trials: The trials table, one row per trial.
        objective, noise: The sweep's.
        interrupted: Whether the user stopped it; `resume` continues it.
        reason: Why it ended early; empty if it did not.
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
        """Fit of the objective over the noise: optimum, interval and curve."""
        from sweeper.analysis.regime import fit_regime

        return fit_regime(self.trials, self.objective, self.noise)


def load_results(run: str | Path) -> Results:
    """Return the results in a run folder so far.

    Raises:
        SpecError: The folder holds no sweep.
    """
    from sweeper.storage.run_folder import stored_spec

    spec, place = stored_spec(run), place_of(run)
    return Results(path_or_uri(place), read_trials(place), spec.objective, spec.noise)


def path_or_uri(place: Place) -> Path | str:
    """Return the absolute path of a local folder, or the URI of a remote one."""
    return place.local.absolute() if place.local else place.uri
