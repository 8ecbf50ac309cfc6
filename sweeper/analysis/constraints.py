"""What a trial may cost: limits on memory and step time, as constraints for the sampler and as a rule for winners."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trainables.result import Outcome

if TYPE_CHECKING:
    from sweeper.config.spec import SweepSpec

Row = Mapping[str, Any]

MEMORY, STEP_TIME = "memory", "step_time"
UNKNOWN = math.log(2.0)
"""Size of a constraint without a measured value: broken by a factor 2, or kept by one."""


def _measures(spec: SweepSpec) -> dict[str, tuple[str, float | None]]:
    return {MEMORY: ("peak_memory_bytes", spec.max_memory), STEP_TIME: ("step_seconds", spec.max_step_time)}


def constraints(rows: Iterable[Row], spec: SweepSpec) -> dict[str, float]:
    """Return the constraints of a configuration: ln(measured/limit), its worst repeat's; kept where <= 0.

    A trial that ran out of memory breaks `memory` whatever it measured, also where no limit was set.
    """
    rows = list(rows)
    found: dict[str, float] = {}
    for name, (column, limit) in _measures(spec).items():
        if limit is not None:
            measured = [v for r in rows if (v := r.get(column))]
            found[name] = math.log(max(measured) / limit) if measured else -UNKNOWN
    if any(r["outcome"] == Outcome.OUT_OF_MEMORY for r in rows):
        found[MEMORY] = max(found.get(MEMORY, UNKNOWN), UNKNOWN)
    return found


def feasible(row: Row, spec: SweepSpec) -> bool:
    """Whether a trial keeps the sweep's limits, as far as that is known; one that does not never wins."""
    return all(value <= 0 for value in constraints([row], spec).values())
