"""Records of merge curves, merge gains and search steps, from tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dashboards.data.configurations import Array, ConfigPoint, read_floats, to_finite
from sweeper.analysis.curve.windows import select_last_weights
from sweeper.search.objectives import Objective
from trainables.result import Outcome

MAX_CURVES = 120


@dataclass(frozen=True)
class MergeCurve:
    """A test score of one pair along a merge's coefficient.

    Attributes:
        method: Name of the merge.
        noise: Noise of the trial, > 0; None if no trial has one.
        coefficient: alpha or s, increasing.
        values: Score per coefficient, such as the test loss [nat].
    """

    digest: str
    number: int | None
    method: str
    noise: float | None
    coefficient: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def excess(self) -> tuple[float, ...]:
        """Loss minus the straight line between the curve's ends: L(alpha) - ((1 - alpha) L_A + alpha L_B).

        Source: Entezari et al., arXiv 2110.06296, whose barrier is its maximum.
        """
        first, span = self.coefficient[0], self.coefficient[-1] - self.coefficient[0]
        shares = [(c - first) / span if span else 0.0 for c in self.coefficient]
        ends = self.values[0], self.values[-1]
        return tuple(v - ((1 - t) * ends[0] + t * ends[1]) for v, t in zip(self.values, shares, strict=True))


def read_merge_curves(trials: pa.Table, merges: pa.Table, noise: str, column: str = "loss_test") -> list[MergeCurve]:
    """Return the curves of the `ok` trials, sorted by merge and noise.

    A curve must have a coefficient (soups have none) and finite values, since a line across a gap would be invented.
    If some trials have a noise, curves of trials without one are left out.

    Args:
        trials: The trials table.
        merges: The merges table.
        noise: Name of the noise definition.
        column: Column of `merges`.
    """
    rows = [r for r in trials.select(["digest", "number", "outcome", f"noise_{noise}"]).to_pylist()
            if r["outcome"] == Outcome.OK]  # fmt: skip
    scales = {r["digest"]: s for r in rows if (s := to_finite(r[f"noise_{noise}"]) or 0.0) > 0}
    known = {r["digest"]: (scales.get(r["digest"]), r["number"]) for r in rows if r["digest"] in scales or not scales}
    curves: dict[str, list[MergeCurve]] = {}
    for method, digest, x, values in _iterate_lines(select_last_weights(merges), column):
        if digest in known and len(x) > 1 and np.isfinite(values).all():
            scale, number = known[digest]
            curve = MergeCurve(digest, number, method, scale, tuple(x.tolist()), tuple(values.tolist()))
            curves.setdefault(method, []).append(curve)
    return [c for method in sorted(curves) for c in sorted(curves[method], key=lambda c: c.noise or 0.0)]


def _iterate_lines(merges: pa.Table, column: str) -> Iterator[tuple[str, str, Array, Array]]:
    # yields method, digest, ascending coefficients and values
    if not merges.num_rows:
        return
    methods, digests = (merges.column(c).combine_chunks().dictionary_encode() for c in ("method", "digest"))
    line = methods.indices.to_numpy().astype(np.int64) * len(digests.dictionary) + digests.indices.to_numpy()
    place, values = read_floats(merges, "coefficient"), read_floats(merges, column)
    order = np.lexsort((place, line))
    line, place, values = line[order], place[order], values[order]
    starts = np.flatnonzero(np.diff(line, prepend=-1))
    names, trials = methods.dictionary.to_pylist(), digests.dictionary.to_pylist()
    for start, end in zip(starts, [*starts[1:], len(line)], strict=True):
        method, trial = divmod(int(line[start]), len(trials))
        yield names[method], trials[trial], place[start:end], values[start:end]


def thin_curves(curves: Sequence[MergeCurve], limit: int) -> list[MergeCurve]:
    """Return at most `limit` curves, evenly spread over their order, including both ends."""
    if len(curves) <= limit:
        return list(curves)
    return [curves[round(i * (len(curves) - 1) / max(1, limit - 1))] for i in range(limit)]


@dataclass(frozen=True)
class MergeGain:
    """Gain of one merge of one pair, at the coefficient with the lowest validation loss.

    Attributes:
        noise: Noise of the trial, > 0.
        gain: Test loss of the parents' mean minus the merge's [nat].
    """

    digest: str
    method: str
    coefficient: float
    noise: float
    gain: float


_SUM = ("pair_kind", "merged_loss_test", "gain_mean_loss_test")


def read_merge_gains(trials: pa.Table, merges: pa.Table, noise: str) -> list[MergeGain]:
    """Return the gains of the merges of `ok` trials with a noise, sorted by noise."""
    column = f"noise_{noise}"
    parents: dict[str, tuple[float, float]] = {}
    for r in trials.select(["digest", "outcome", column, "a_loss_test", "b_loss_test", *_SUM]).to_pylist():
        scale, a, b, merged, gain = (to_finite(r[k]) for k in (column, "a_loss_test", "b_loss_test", *_SUM[1:]))
        if r["pair_kind"] == "tasks" and merged is not None and gain is not None:
            a = b = merged + gain  # the mean over all children
        if r["outcome"] == Outcome.OK and scale is not None and scale > 0 and a is not None and b is not None:
            parents[r["digest"]] = scale, (a + b) / 2
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    names = ["digest", "method", "coefficient", "loss_val", "loss_test"]
    for r in select_last_weights(merges).select(names).to_pylist():
        key = r["digest"], r["method"]
        known = key[0] in parents and to_finite(r["loss_val"]) is not None and to_finite(r["loss_test"]) is not None
        if known and (key not in best or r["loss_val"] < best[key]["loss_val"]):
            best[key] = r
    gains = [
        MergeGain(d, m, r["coefficient"], parents[d][0], parents[d][1] - r["loss_test"]) for (d, m), r in best.items()
    ]
    return sorted(gains, key=lambda g: (g.noise, g.digest))


@dataclass(frozen=True)
class SearchStep:
    """A configuration in the order of the search.

    Attributes:
        value: Mean of the objective over the `ok` repeats; None without one.
        best: Best value so far among configurations that can win; None without one.
        noise: Noise of the configuration; None unless positive.
        optimum, low, high: The sampler's estimate of the best noise at this step, with its 90 % interval.
        origin: Origin of the candidate.
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


def read_search_steps(points: Sequence[ConfigPoint], search: pa.Table, objective: Objective) -> list[SearchStep]:
    """Return the configurations in order of their number, with the sampler's estimates."""
    beliefs: Mapping[int, Mapping[str, Any]] = {r["number"]: r for r in search.to_pylist()}
    steps: list[SearchStep] = []
    best: float | None = None
    numbered = [(i if p.number is None else p.number, p) for i, p in enumerate(points)]
    for number, point in sorted(numbered, key=lambda pair: pair[0]):
        estimate = point.values.get(objective.column) if point.ok else None
        value = estimate.mean if estimate else None
        if value is not None and point.can_win and (best is None or objective.is_better(value, best)):
            best = value
        belief = beliefs.get(number, {})
        optimum, low, high = (to_finite(belief.get(k)) for k in ("optimum", "optimum_low", "optimum_high"))
        steps.append(SearchStep(number, point, value, best, point.noise, optimum, low, high, belief.get("origin")))
    return steps


def thin_steps(steps: Sequence[SearchStep], limit: int) -> list[SearchStep]:
    """Return about `limit` steps, evenly spread over the search, plus every step that improved the best value."""
    if len(steps) <= limit:
        return list(steps)
    kept = {round(i * (len(steps) - 1) / (limit - 1)) for i in range(limit)}
    kept |= {i for i in range(1, len(steps)) if steps[i].best != steps[i - 1].best}
    return [steps[i] for i in sorted(kept)]
