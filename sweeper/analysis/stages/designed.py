"""Designed trials: those whose settings no result chose, on which the shape of a curve may rest.

Trials of a proxy had a share of the training budget. Their scores never stand beside those of the full budget.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
    """Return the designed trials of one training budget, if these have enough viable noises for the tests of a shape.

    Those with the full budget come first, then those of a proxy. Without either, it returns all trials with the full
    budget, or those of the proxy if there are no others.

    Args:
        trials: Trials table with the columns `sampler`, `stage`, `outcome` and the noise's, perhaps `proxy`.
        noise: Name of the noise.
    """
    kinds = zip(trials["sampler"].to_pylist(), trials["stage"].to_pylist(), strict=True)
    designed = np.array([is_designed(sampler, stage) for sampler, stage in kinds], dtype=bool)
    short = mark_proxy(trials)
    if designed.all() and not short.any():
        return trials
    for mask in (designed & ~short, designed & short):
        chosen = trials.filter(pa.array(mask))
        if _count_levels(chosen, noise) >= MIN_LEVELS:
            return chosen
    return trials if short.all() else trials.filter(pa.array(~short))


def _count_levels(trials: pa.Table, noise: str) -> int:
    viable = zip(trials["outcome"].to_pylist(), trials[f"noise_{noise}"].to_pylist(), strict=True)
    return len(
        {round(math.log(v), DIGITS) for outcome, v in viable if outcome == Outcome.OK and v is not None and v > 0}
    )


def mark_proxy(trials: pa.Table) -> NDArray[np.bool_]:
    """Return which trials had a share of the training budget, shape (n,)."""
    if "proxy" not in trials.column_names:  # of an earlier version
        return np.zeros(trials.num_rows, dtype=bool)
    return np.array([share is not None for share in trials["proxy"].to_pylist()], dtype=bool)


def is_proxy_only(trials: pa.Table) -> bool:
    """Return whether there are trials, and all of them had a share of the training budget."""
    return bool(trials.num_rows) and bool(mark_proxy(trials).all())


def select_budget(trials: pa.Table, noise: str) -> pa.Table:
    """Return the trials with the training budget of `select_designed`."""
    short = mark_proxy(trials)
    if not short.any():
        return trials
    return trials.filter(pa.array(short == (find_share(select_designed(trials, noise)) is not None)))


def find_share(trials: pa.Table) -> float | None:
    """Return the share of the training budget that trials of one budget had; None for the full one."""
    return next((share for share in trials["proxy"].to_pylist() if share), None) if mark_proxy(trials).any() else None


def find_designed(trials: pa.Table) -> frozenset[str]:
    """Return the configurations of the designed trials."""
    columns = (trials[name].to_pylist() for name in ("config", "sampler", "stage"))
    return frozenset(config for config, sampler, stage in zip(*columns, strict=True) if is_designed(sampler, stage))


def find_adaptive(trials: pa.Table) -> tuple[str, ...]:
    """Return the names of the samplers that chose trials by results."""
    kinds = zip(trials["sampler"].to_pylist(), trials["stage"].to_pylist(), strict=True)
    return tuple(sorted({str(sampler) for sampler, stage in kinds if not is_designed(sampler, stage)}))
