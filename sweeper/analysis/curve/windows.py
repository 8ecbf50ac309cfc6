"""Windows of checkpoints: what averages of the last checkpoints do to the parents and to their merge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from scipy import stats

from trainables.result import Outcome

pc: Any = pyarrow.compute  # it creates its functions at import, which hides them from type checkers


@dataclass(frozen=True)
class Change:
    """Mean change of a score with its interval; of a loss in nat.

    Attributes:
        low, high: 90 % interval, Student's t; None with fewer than two values.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class WindowEffect:
    """Test losses of one window of checkpoints, means over trials [nat].

    Attributes:
        window: Number of last checkpoints in each child's mean; 1 is the last weights alone.
        trials: Viable trials with this window.
        parents: Loss of the children alone, mean of A and B; None for children of several tasks.
        merged: Loss of their linear merge with equal weights.
        parents_change, merged_change: Changes against the last weights; None for window 1.
    """

    window: int
    trials: int
    parents: float | None
    merged: float
    parents_change: Change | None
    merged_change: Change | None

    def record(self) -> dict[str, Any]:
        """Return the effect as a record for JSON."""
        return asdict(self)


def select_last_weights(merges: pa.Table) -> pa.Table:
    """Return the rows of the merges table that merge the children's last weights, not means of checkpoints."""
    return merges.filter(pc.is_null(merges.column("window")))


def compare_windows(trials: pa.Table, merges: pa.Table) -> tuple[WindowEffect, ...]:
    """Return one effect per window, the last weights first; none if no trial has a window.

    Args:
        trials: Trials table; trials that are not viable do not count.
        merges: Merges table.
    """
    viable = {d for d, o in zip(*(trials.column(c).to_pylist() for c in ("digest", "outcome")), strict=True)
              if o == Outcome.OK}  # fmt: skip
    linear = merges.filter(pc.equal(merges.column("method"), "linear"))
    lines: dict[int, dict[str, dict[float, float]]] = {}
    for row in linear.select(["digest", "window", "coefficient", "loss_test"]).to_pylist():
        if row["digest"] in viable and row["loss_test"] is not None and math.isfinite(row["loss_test"]):
            line = lines.setdefault(row["window"] or 1, {}).setdefault(row["digest"], {})
            line[row["coefficient"]] = row["loss_test"]
    if set(lines) <= {1}:
        return ()
    last = lines.get(1, {})
    return tuple(_compare(window, lines[window], last) for window in sorted(lines))


def _compare(
    window: int, lines: Mapping[str, Mapping[float, float]], last: Mapping[str, Mapping[float, float]]
) -> WindowEffect:
    known = [d for d in lines if d in last and set(lines[d]) == set(last[d])]
    merged = [_middle(lines[d]) for d in known]
    parents = [p for d in known if (p := _ends(lines[d])) is not None]
    if window == 1:
        return WindowEffect(1, len(known), _mean(parents), float(np.mean(merged)), None, None)
    before = [_middle(last[d]) for d in known]
    alone = [p for d in known if (p := _ends(last[d])) is not None]
    return WindowEffect(
        window, len(known), _mean(parents), float(np.mean(merged)) if merged else math.nan, _change(parents, alone),
        _change(merged, before),
    )  # fmt: skip


def _middle(line: Mapping[float, float]) -> float:
    # equal weights: 1/2, or the one coefficient of more than two tasks
    return line.get(0.5, next(iter(line.values())))


def _ends(line: Mapping[float, float]) -> float | None:
    return (line[0.0] + line[1.0]) / 2 if {0.0, 1.0} <= set(line) else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _change(after: Sequence[float], before: Sequence[float]) -> Change | None:
    if not after:
        return None
    gaps = np.subtract(after, before)
    if len(gaps) < 2:
        return Change(float(gaps.mean()), None, None)
    half = float(stats.t.ppf(0.95, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps)))
    return Change(float(gaps.mean()), float(gaps.mean()) - half, float(gaps.mean()) + half)
