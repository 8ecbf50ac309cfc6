"""Cells: configurations of a trials table with their noises, knobs and objective.

======  ============================================================================================
symbol  meaning, for C configurations
======  ============================================================================================
x       log noise of a configuration, [ln of the definition's unit]
z       its objective on the study's scale (`Objective.tell`), mean of repeats, larger is better
r       its repeats
======  ============================================================================================

Only viable pairs enter (outcome `ok`). With `broken`, unviable and diverged pairs enter, too, at the cap. A few merges
collapse hundreds of times deeper than the hump is high, so a floor raises the bad tail of z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeper.analysis.regime import tail_floors
from sweeper.analysis.stages.designed import find_adaptive, find_designed
from sweeper.search.noise_sampler.single_index import tail_floor
from sweeper.search.objectives import Objective
from trainables.noise import NOISE
from trainables.result import UNSTABLE

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
MAX_CONFIGS = 1000
NAMED = tuple(name for name, scale in NOISE.items() if scale.kind != "fitted")
_KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay", "k_aug", "augmentation_strength")


@dataclass(frozen=True, eq=False, repr=False)
class Cells:
    """Configurations and their repeats.

    Attributes:
        config: Digests of the configurations, shape (C,).
        z: Objective, shape (C,).
        size: Number of repeats, shape (C,).
        value: Objective per repeat, shape (R,), and `owner` its configuration, shape (R,).
        noise: Definition -> x, shape (C,); NaN if undefined.
        factors: Varying knob -> logarithm of its factor with the signs of `fitted`, shape (C,).
        knobs: Knob -> its value, shape (C,), with augmentation policies as numbers.
        samplers: Adaptive samplers that chose any of the configurations.
        designed: Number of the configurations that no result chose.
        tail: Number of repeats that the floor raised.
    """

    config: tuple[str, ...]
    z: Array
    size: Array
    value: Array
    owner: Rows
    noise: Mapping[str, Array]
    factors: Mapping[str, Array]
    knobs: Mapping[str, Array]
    samplers: tuple[str, ...]
    tail: int = 0
    designed: int = 0

    def __len__(self) -> int:
        return len(self.config)

    @property
    def within(self) -> Array:
        """Sum of squares of the repeats about their mean per configuration, shape (C,)."""
        return np.bincount(self.owner, (self.value - self.z[self.owner]) ** 2, len(self)).astype(float)

    @property
    def pure(self) -> tuple[float, int]:
        """Pure error: variance of one repeat and its degrees of freedom; (nan, 0) without repeats."""
        freedom = len(self.value) - len(self)
        return (float(self.within.sum()) / freedom if freedom > 0 else math.nan), freedom

    @property
    def scatter(self) -> float:
        """Median standard deviation of a repeat about its configuration's mean; 0 without repeats."""
        repeated = self.size > 1
        return math.sqrt(float(np.median(self.within[repeated] / (self.size[repeated] - 1)))) if repeated.any() else 0.0

    def take(self, rows: Any) -> Cells:
        """Return the configurations at these positions, in this order, or under this mask."""
        kept = np.arange(len(self))[rows]
        place = np.full(len(self), -1)
        place[kept] = np.arange(len(kept))
        order = np.argsort(place[self.owner], kind="stable")
        order = order[place[self.owner][order] >= 0]
        return replace(
            self,
            config=tuple(self.config[i] for i in kept),
            z=self.z[kept],
            size=self.size[kept],
            value=self.value[order],
            owner=place[self.owner][order],
            noise={n: v[kept] for n, v in self.noise.items()},
            factors={n: v[kept] for n, v in self.factors.items()},
            knobs={n: v[kept] for n, v in self.knobs.items()},
        )

    def order_along(self, noise: str) -> Cells:
        """Return the configurations with this noise, in ascending order of it."""
        x = self.noise[noise]
        return self.take(sorted(np.flatnonzero(np.isfinite(x)), key=lambda i: (x[i], self.config[i])))

    def raise_to(self, floor: Array | float) -> Cells:
        """Return the cells with all repeats raised to their configuration's floor, shape (C,) or one number."""
        least = np.broadcast_to(floor, (len(self),))[self.owner]
        value = np.maximum(self.value, least)
        z = np.bincount(self.owner, value, len(self)) / self.size
        return replace(self, value=value, z=z, tail=int(np.sum(self.value < least)))


def collect(trials: pa.Table, goal: Objective, *, broken: bool = False) -> Cells:
    """Return the scored configurations of a trials table.

    Args:
        trials: Trials table.
        goal: The objective, on its split.
        broken: Whether unviable and diverged trials enter at the cap.
    """
    columns = ["config", "outcome", "classes", goal.column, "augmentation", *_KNOBS]
    rows = trials.select([*columns, *(f"noise_{n}" for n in NAMED)]).to_pylist()
    rows = [r for r in rows if r["outcome"] == "ok" or (broken and r["outcome"] in UNSTABLE)]
    # an overflowed merge has no score and counts at the cap, but only if the objective was measured at all
    if not any(_is_finite(r[goal.column]) for r in rows if r["outcome"] == "ok"):
        rows = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["config"], []).append(row)
    members = [groups[c] for c in sorted(groups)]
    sign = 1.0 if goal.maximize else -1.0
    scores = [[sign * goal.tell(r) for r in group] for group in members]
    size = np.array([len(s) for s in scores], dtype=float)
    policies = sorted({str(r["augmentation"]) for r in rows})
    knobs = {k: _means(members, k) for k in _KNOBS}
    knobs["augmentation"] = np.array([float(policies.index(str(g[0]["augmentation"]))) for g in members])
    with np.errstate(divide="ignore", invalid="ignore"):
        # repeats share a predicted noise, but each repeat measures its own
        noise = {n: _means(members, f"noise_{n}", log=True) for n in NAMED}
    return Cells(
        config=tuple(sorted(groups)),
        z=np.array([math.fsum(s) / len(s) for s in scores]),
        size=size,
        value=np.array([v for s in scores for v in s], dtype=float),
        owner=np.repeat(np.arange(len(members)), size.astype(int)),
        noise=noise,
        factors=_factors(knobs),
        knobs=knobs,
        samplers=find_adaptive(trials),
        designed=len(groups.keys() & find_designed(trials)),
    )


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _means(members: list[list[dict[str, Any]]], column: str, *, log: bool = False) -> Array:
    out = np.full(len(members), np.nan)
    for i, group in enumerate(members):
        values = [float(r[column]) for r in group if _is_finite(r[column])]
        values = [math.log(v) for v in values if v > 0] if log else values
        if values:
            out[i] = math.fsum(values) / len(values)
    return out


def _factors(knobs: Mapping[str, Array]) -> dict[str, Array]:
    decay = knobs["weight_decay"]
    positive = decay > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(positive, decay, 1.0))
        # a decay of 0 has no logarithm: it gets the mean of the others and a shift of its own
        logs = np.where(positive, logs, logs[positive].mean() if positive.any() else 0.0)
        out = {
            "learning_rate": np.log(knobs["learning_rate"]),
            "batch_size": -np.log(knobs["batch_size"]),
            "momentum": -np.log1p(-knobs["momentum"]),
            "weight_decay": logs,
            "weight_decay = 0": (~positive).astype(float),
        }
        if np.isfinite(knobs["k_aug"]).all():
            out["k_aug"] = np.log(knobs["k_aug"])
        else:
            out["augmentation"] = knobs["augmentation_strength"]
    return {name: v for name, v in out.items() if len(v) and np.isfinite(v).all() and np.ptp(v) > 1e-9}


def raise_tail_along(cells: Cells, noise: str) -> Cells:
    """Return the configurations in order of a noise, with the bad tail raised as in `sweeper.analysis.regime`.

    The floors apply to means; a single repeat may lie two standard deviations of a repeat lower.
    """
    ordered = cells.order_along(noise)
    if len(ordered) < 3:
        return ordered
    return ordered.raise_to(tail_floors(ordered.z)[0] - 2.0 * ordered.scatter)


def raise_tail(cells: Cells) -> Cells:
    """Return the configurations with the bad tail raised to `sweeper.search.noise_sampler.single_index.tail_floor`."""
    floor = tail_floor(cells.z, cells.size, cells.scatter)
    return cells if floor is None else cells.raise_to(floor)


def subsample(cells: Cells, limit: int = MAX_CONFIGS) -> Cells:
    """Return at most `limit` configurations, evenly spaced in the order of their digests, which is random."""
    if len(cells) <= limit:
        return cells
    return cells.take(np.linspace(0, len(cells) - 1, limit).astype(int))
