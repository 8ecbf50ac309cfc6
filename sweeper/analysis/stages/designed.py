"""Designed trials: those whose settings no result chose, on which the shape of a curve may rest."""

from __future__ import annotations

import math

import pyarrow as pa

from sweeper.search.stages import MAP, SEARCH
from trainables.result import Outcome

EXTEND = "extend"
"""Sampler name in the rows that `sweeper extend` adds."""
DESIGNED_SAMPLERS = frozenset({"grid", "qmc", "random", EXTEND})
MIN_LEVELS = 6
"""Different viable noises that the tests of a shape need."""
DIGITS = 6
"""Log noises that agree to this many digits are the same."""


def is_designed(sampler: str | None, stage: str | None) -> bool:
    """Return whether no result chose the settings of a trial; an unknown sampler counts as a design."""
    return stage == MAP or (stage in (None, SEARCH) and (sampler is None or sampler in DESIGNED_SAMPLERS))


def select_designed(trials: pa.Table, noise: str) -> pa.Table:
    """Return the designed trials, if these have enough viable noises for the tests of a shape; else all trials.

    Args:
        trials: Trials table with the columns `sampler`, `stage`, `outcome` and the noise's.
        noise: Name of the noise.
    """
    kinds = zip(trials["sampler"].to_pylist(), trials["stage"].to_pylist(), strict=True)
    mask = [is_designed(sampler, stage) for sampler, stage in kinds]
    if all(mask):
        return trials
    designed = trials.filter(pa.array(mask, pa.bool_()))
    viable = zip(designed["outcome"].to_pylist(), designed[f"noise_{noise}"].to_pylist(), strict=True)
    levels = {round(math.log(v), DIGITS) for outcome, v in viable if outcome == Outcome.OK and v is not None and v > 0}
    return designed if len(levels) >= MIN_LEVELS else trials


def find_adaptive(trials: pa.Table) -> tuple[str, ...]:
    """Return the names of the samplers that chose trials by results."""
    kinds = zip(trials["sampler"].to_pylist(), trials["stage"].to_pylist(), strict=True)
    return tuple(sorted({str(sampler) for sampler, stage in kinds if not is_designed(sampler, stage)}))
