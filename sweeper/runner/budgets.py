"""Budgets of a sweep: when no further configuration is started. What runs is finished.

`max_seconds` counts from the start of the driver; GPU-hours and the interval of the best noise count what is in the run
folder, so a resume goes on only with a larger budget.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sweeper.analysis.regime import Regime
from sweeper.config.resources import Resources
from sweeper.config.spec import SweepSpec
from sweeper.search.objectives import OBJECTIVES

FEWEST = 20
"""Configurations below which an interval stops nothing: its bootstrap is too sure of itself."""
_STEP, _SHARE = 5, 20  # looked at after so many further configurations, or after a 20th of all where that is more

Row = Mapping[str, Any]


class Budgets:
    """What a sweep has used and knows, against what it may.

    Args:
        spec: The sweep.
        started: Time of its start, of `time.monotonic`.
        gpus: Row of a trial -> GPUs that it held.
    """

    def __init__(self, spec: SweepSpec, started: float, gpus: Callable[[Row], float] | None = None) -> None:
        self.spec, self.started = spec, started
        self.gpus = gpus or gpus_held
        self.gpu_seconds = 0.0
        self.rows: list[dict[str, Any]] = []  # of finished trials, what the interval of the best noise needs
        self.configs: dict[str, int] = {}  # configuration -> place among the finished ones
        self.next_look = FEWEST

    def add(self, row: Row) -> None:
        """Count a finished trial, of this driver or an earlier one."""
        self.gpu_seconds += self.gpus(row) * (row.get("device_seconds") or 0.0)
        if self.spec.until_interval is not None and row["outcome"] != "failed":
            columns = _columns(self.spec)
            self.rows.append({name: row.get(name) for name in columns})
            self.configs.setdefault(row["config"], len(self.configs))

    def spent(self) -> str:
        """Return why no further configuration is to be started; empty where one may be."""
        spec = self.spec
        if spec.max_seconds and time.monotonic() - self.started > spec.max_seconds:
            return f"the {spec.max_seconds:g} seconds are over"
        if spec.max_gpu_hours and self.gpu_seconds >= 3600 * spec.max_gpu_hours:
            return f"the {spec.max_gpu_hours:g} GPU-hours are used ({self.gpu_seconds / 3600:.3g} in all)"
        return self._known() if spec.until_interval else ""

    def _known(self) -> str:
        count = len(self.configs)
        if count < self.next_look:
            return ""
        step = max(_STEP, count // _SHARE)
        self.next_look = count + step
        # twice in a row: one look in many is narrow by chance
        found = self._regime(count)
        if found is None or self._regime(count - step) is None:
            return ""
        assert found.low is not None
        assert found.high is not None
        return (
            f"the 90 % interval of the best noise, {found.low:.3g} to {found.high:.3g}, is narrower than a factor "
            f"{self.spec.until_interval:g}"
        )

    def _regime(self, count: int) -> Regime | None:
        """Return the regime of the first so many configurations where its interval is narrow and inside."""
        import pyarrow as pa

        from sweeper.analysis.regime import fit_regime

        rows = [row for row in self.rows if self.configs[row["config"]] < count]
        table = pa.Table.from_pylist(rows, schema=_schema(self.spec))
        found = fit_regime(table, self.spec.objective, self.spec.noise, split="val", by_knob=False)
        if found.low is None or found.high is None or not found.interior:
            return None
        return found if found.high / found.low < (self.spec.until_interval or 1.0) else None


def gpus_of(row: Row, asked: Resources) -> float:
    """Return the GPUs that a trial of a sweep with these resources held while it ran; none where it ran on a CPU."""
    return gpus_held(row) * asked.gpus(row.get("members") or 2)


def gpus_held(row: Row) -> float:
    """Return the GPUs that a trial held while it ran; none where it ran on a CPU."""
    return float(str(row.get("device")).startswith("cuda"))


def _columns(spec: SweepSpec) -> Sequence[str]:
    return ("config", "outcome", "classes", "sampler", OBJECTIVES[spec.objective].column, f"noise_{spec.noise}")


def _schema(spec: SweepSpec) -> Any:
    from sweeper.storage.schema import SCHEMAS

    return SCHEMAS["trials"].empty_table().select(_columns(spec)).schema
