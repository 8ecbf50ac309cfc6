"""The noise that a search moves along: the sweep's, unless the map prefers another definition beyond doubt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sweeper.analysis.evidence.cells import collect, raise_tail
from sweeper.analysis.evidence.ranking import Preferred, find_preferred, rank
from sweeper.formatting import number
from sweeper.search.objectives import resolve_objective
from trainables.noise import NOISE

CERTAIN = 0.95
"""Share of the resampled maps in which the preferred definition must predict best."""


def describe_preference(preferred: Preferred, before: str) -> str:
    """Return as a sentence along which noise the search moves, instead of the sweep's."""
    return (
        f"the map prefers noise {preferred.noise} (R² {number(preferred.r2)}) to {before} "
        f"(R² {number(preferred.shown_r2)}): the search moves along {NOISE[preferred.noise].formula}"
    )


def find_preference(trials: pa.Table, objective: str, noise: str, known: Collection[str]) -> Preferred | None:
    """Return the predicted noise that the map prefers beyond doubt; None if it is the sweep's or none.

    Args:
        trials: Trials of the map.
        objective: Name in `OBJECTIVES`.
        noise: Name of the sweep's noise.
        known: Names of the noises that the search can move along.
    """
    with threadpool_limits(1):
        cells = raise_tail(collect(trials, resolve_objective(objective, trials)))
        compared = {noise, *known}
        noises = {name: x if name in compared else np.full(len(x), np.nan) for name, x in cells.noise.items()}
        cells = replace(cells, noise=noises)
        preferred = find_preferred(rank(cells), noise)
    sure = preferred is not None and preferred.noise in known and preferred.wins >= CERTAIN
    return preferred if sure else None
