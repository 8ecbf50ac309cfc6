"""The noise that a search moves along: the sweep's, unless the map prefers another definition beyond doubt."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sweeper.analysis.evidence.cells import collect, raise_tail
from sweeper.analysis.evidence.ranking import rank
from sweeper.formatting import number
from sweeper.search.objectives import resolve_objective
from trainables.noise import NOISE

CERTAIN = 0.95
"""Share of the resampled maps in which the preferred definition must predict best."""


@dataclass(frozen=True)
class Preference:
    """A definition that predicts the map better than the sweep's, with R² of left-out configurations of both."""

    noise: str
    r2: float
    r2_before: float

    def describe(self, before: str) -> str:
        """Return the preference as a sentence."""
        return (
            f"the map prefers noise {self.noise} (R² {number(self.r2)}) to {before} (R² {number(self.r2_before)}): the "
            f"search moves along {NOISE[self.noise].formula}"
        )


def find_preference(trials: pa.Table, objective: str, noise: str, known: Collection[str]) -> Preference | None:
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
        rows = rank(cells).rows
    before = next((row for row in rows if row.name == noise), None)
    if before is None or not rows or rows[0].name not in known or rows[0].name == noise or noise in rows[0].same_as:
        return None
    return Preference(rows[0].name, rows[0].r2, before.r2) if rows[0].wins >= CERTAIN else None
