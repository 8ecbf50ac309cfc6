"""Budgets of a sweep: limits after which it starts no further configuration; running trials finish.

`max_seconds` counts from the start of the driver. GPU-hours and the interval of the best noise count all trials in the
run folder, so a resume needs a larger budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.analysis.regime import Regime
from sweeper.analysis.trial_counts import count_gpus
from sweeper.config.spec import SweepSpec
from sweeper.search.objectives import OBJECTIVES

FEWEST = 20
"""Smallest number of configurations: the bootstrap of fewer is overconfident."""
_STEP, _SHARE = 5, 20  # refit after max(5, count / 20) further configurations

Row = Mapping[str, Any]


class Budgets:
    """Use of the budgets of a sweep.

    Args:
        spec: The sweep.
        started: Start of the driver, from `time.monotonic`.
    """

    def __init__(self, spec: SweepSpec, started: float) -> None:
        self.spec, self.started = spec, started
        self.gpu_seconds = 0.0
        self.rows: list[dict[str, Any]] = []  # finished trials, with the columns for the interval of the best noise
        self.configs: dict[str, int] = {}  # configuration -> its position in order of finishing
        self.next_fit = FEWEST

    def add(self, row: Row) -> None:
        """Count a finished trial of this driver or an earlier one."""
        self.gpu_seconds += count_gpus(row, self.spec.resources) * (row.get("device_seconds") or 0.0)
        # the interval is that of the full training budget
        if self.spec.until_interval is not None and row["outcome"] != "failed" and not row.get("proxy"):
            columns = _columns(self.spec)
            self.rows.append({name: row.get(name) for name in columns})
            self.configs.setdefault(row["config"], len(self.configs))

    def spent(self) -> str:
        """Return why the sweep starts no further configuration; empty while it may."""
        spec = self.spec
        if spec.max_seconds and time.monotonic() - self.started > spec.max_seconds:
            return f"max_seconds = {spec.max_seconds:g} is reached"
        if spec.max_gpu_hours and self.gpu_seconds >= 3600 * spec.max_gpu_hours:
            used = f"{self.gpu_seconds / 3600:.3g} GPU-hours are used"
            return f"max_gpu_hours = {spec.max_gpu_hours:g} is reached: {used}"
        return self._check_interval() if spec.until_interval else ""

    def _check_interval(self) -> str:
        count = len(self.configs)
        if count < self.next_fit:
            return ""
        step = max(_STEP, count // _SHARE)
        self.next_fit = count + step
        # two fits in a row must be narrow, because one in many is narrow by chance
        regime = self._fit_narrow(count)
        if regime is None or self._fit_narrow(count - step) is None:
            return ""
        assert regime.low is not None
        assert regime.high is not None
        return (
            f"the 90 % interval of the best noise, {regime.low:.3g} to {regime.high:.3g}, is narrower than a factor "
            f"{self.spec.until_interval:g}"
        )

    def _fit_narrow(self, count: int) -> Regime | None:
        """Return the regime of the first `count` configurations; None unless its interval is narrow and interior."""
        import pyarrow as pa

        from sweeper.analysis.regime import fit_regime

        rows = [row for row in self.rows if self.configs[row["config"]] < count]
        table = pa.Table.from_pylist(rows, schema=_schema(self.spec))
        regime = fit_regime(table, self.spec.objective, self.spec.noise, split="val", by_knob=False)
        if regime.low is None or regime.high is None or not regime.interior:
            return None
        return regime if regime.high / regime.low < (self.spec.until_interval or 1.0) else None


def _columns(spec: SweepSpec) -> Sequence[str]:
    return (
        "config",
        "outcome",
        "classes",
        "sampler",
        "stage",
        OBJECTIVES[spec.objective].column,
        f"noise_{spec.noise}",
    )


def _schema(spec: SweepSpec) -> Any:
    from sweeper.storage.schema import SCHEMAS

    return SCHEMAS["trials"].empty_table().select(_columns(spec)).schema
