"""Limits on memory and step time as constraints for the sampler, and the rule for which configurations may win."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trainables.result import NEVER_WINS, Outcome

if TYPE_CHECKING:
    from sweeper.config.spec import SweepSpec

Row = Mapping[str, Any]

MEMORY, STEP_TIME = "memory", "step_time"
UNKNOWN = math.log(2.0)
"""Size of a constraint without a measured value: violated or satisfied by a factor of 2."""


def _measures(spec: SweepSpec) -> dict[str, tuple[str, float | None]]:
    return {MEMORY: ("peak_memory_bytes", spec.max_memory), STEP_TIME: ("step_seconds", spec.max_step_time)}


def constraints(rows: Iterable[Row], spec: SweepSpec) -> dict[str, float]:
    """Return a configuration's constraints, ln(measured/limit) of its worst repeat; satisfied if <= 0.

    A trial that ran out of memory violates `memory`, whatever it measured and even without a limit.
    """
    rows = list(rows)
    values: dict[str, float] = {}
    for name, (column, limit) in _measures(spec).items():
        if limit is not None:
            measured = [v for r in rows if (v := r.get(column))]
            values[name] = math.log(max(measured) / limit) if measured else -UNKNOWN
    if any(r["outcome"] == Outcome.OUT_OF_MEMORY for r in rows):
        values[MEMORY] = max(values.get(MEMORY, UNKNOWN), UNKNOWN)
    return values


def feasible(row: Row, spec: SweepSpec) -> bool:
    """Return whether a trial keeps the sweep's limits as far as they were measured; others never win."""
    return all(value <= 0 for value in constraints([row], spec).values())


def find_ineligible(rows: Iterable[Row], feasible: Callable[[Row], bool] = lambda _: True) -> set[str]:
    """Return the configurations that may not win: one repeat has an outcome of `NEVER_WINS` or breaks a limit."""
    return {row["config"] for row in rows if row["outcome"] in NEVER_WINS or not feasible(row)}
