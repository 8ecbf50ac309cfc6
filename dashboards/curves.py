"""Merge curves and the course of the search: tables in, small records out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeper.objective import Objective
from trainables.result import Outcome

from .tables import ConfigPoint, estimate, finite

MAX_CURVES = 120


@dataclass(frozen=True)
class MergeCurve:
    """One pair's test loss along a merge's coefficient, as excess over its parents.

    Attributes:
        method: Name of the merge.
        noise: Noise of the trial, > 0.
        coefficient: alpha of `linear`, s of `task_arithmetic`, increasing.
        excess: Test loss minus the parents' reference [nat].
    """

    digest: str
    number: int | None
    method: str
    noise: float
    coefficient: tuple[float, ...]
    excess: tuple[float, ...]


def _reference(method: str, curve: Sequence[tuple[float, float]], parents: float | None) -> list[float] | None:
    # linear ends in the parents, so the line between its own ends is the reference (Entezari, arXiv 2110.06296)
    if method == "linear" and curve[0][0] == 0 and curve[-1][0] == 1:
        start, end = curve[0][1], curve[-1][1]
        return [(1 - alpha) * start + alpha * end for alpha, _ in curve]
    return None if parents is None else [parents] * len(curve)


def merge_curves(trials: pa.Table, merges: pa.Table, noise: str, limit: int = MAX_CURVES) -> list[MergeCurve]:
    """Return the curves of the `ok` trials, in order of noise.

    `linear` is measured from the line between its ends, L(alpha) - ((1 - alpha) L_A + alpha L_B), every other merge
    from the mean of its parents' test losses.

    Args:
        trials: The trials table.
        merges: The merges table.
        noise: Name of the noise definition.
        limit: At most so many curves per merge, spread evenly over the order of noise.

    Source: Entezari et al., arXiv 2110.06296, definition of the barrier.
    """
    keys = ["digest", "number", "outcome", f"noise_{noise}", "a_loss_test", "b_loss_test"]
    known = {
        r["digest"]: r
        for r in trials.select(keys).to_pylist()
        if r["outcome"] == Outcome.OK and (finite(r[f"noise_{noise}"]) or 0) > 0
    }
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in merges.select(["digest", "method", "coefficient", "loss_test"]).to_pylist():
        loss = finite(row["loss_test"])
        if row["digest"] in known and loss is not None:
            curves.setdefault((row["method"], row["digest"]), []).append((row["coefficient"], loss))
    found: dict[str, list[MergeCurve]] = {}
    for (method, digest), curve in curves.items():
        curve.sort()
        trial = known[digest]
        parents = estimate((trial["a_loss_test"], trial["b_loss_test"]))
        reference = _reference(method, curve, parents.mean if parents else None)
        if reference is not None:
            excess = tuple(loss - line for (_, loss), line in zip(curve, reference, strict=True))
            x = tuple(c for c, _ in curve)
            scale = trial[f"noise_{noise}"]
            found.setdefault(method, []).append(MergeCurve(digest, trial["number"], method, scale, x, excess))
    return [c for method in sorted(found) for c in thin(sorted(found[method], key=lambda c: c.noise), limit)]


def thin(curves: Sequence[MergeCurve], limit: int) -> list[MergeCurve]:
    """Return at most `limit` of the curves, evenly spread over their order, the ends among them."""
    if len(curves) <= limit:
        return list(curves)
    return [curves[round(i * (len(curves) - 1) / max(1, limit - 1))] for i in range(limit)]


@dataclass(frozen=True)
class SearchStep:
    """One configuration in the order of the search.

    Attributes:
        value: Mean of the objective over the `ok` repeats; None without any.
        best: Best value of a configuration that can win, up to and including this step; None before the first.
        noise: Noise of the configuration; None where it is not positive.
        optimum, low, high: The sampler's estimate of the best noise when it proposed this one, with its 90 % interval.
        origin: How the candidate came about.
    """

    number: int
    point: ConfigPoint
    value: float | None
    best: float | None
    noise: float | None
    optimum: float | None
    low: float | None
    high: float | None
    origin: str | None


def search_steps(points: Sequence[ConfigPoint], search: pa.Table, objective: Objective) -> list[SearchStep]:
    """Return the configurations in order of their number, with what the sampler thought of each."""
    thoughts: Mapping[int, Mapping[str, Any]] = {r["number"]: r for r in search.to_pylist()}
    steps: list[SearchStep] = []
    best: float | None = None
    numbered = [(i if p.number is None else p.number, p) for i, p in enumerate(points)]
    for number, point in sorted(numbered, key=lambda pair: pair[0]):
        found = point.values.get(objective.column) if point.ok else None
        value = found.mean if found else None
        if value is not None and point.can_win and (best is None or objective.better(value, best)):
            best = value
        thought = thoughts.get(number, {})
        optimum, low, high = (finite(thought.get(k)) for k in ("optimum", "optimum_low", "optimum_high"))
        steps.append(SearchStep(number, point, value, best, point.noise, optimum, low, high, thought.get("origin")))
    return steps
