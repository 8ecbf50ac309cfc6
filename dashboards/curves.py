"""Merge curves, the course of the search and the table of the best trials: tables in, small records out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sweeper.objective import OBJECTIVES, Objective
from trainables.noise import NOISE
from trainables.result import Outcome, trial_columns

from .axes import short
from .tables import ConfigPoint, Sweep, config_points, estimate, finite, winners

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
        best: Best value up to and including this step; None before the first.
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
        if value is not None and (best is None or objective.better(value, best)):
            best = value
        thought = thoughts.get(number, {})
        optimum, low, high = (finite(thought.get(k)) for k in ("optimum", "optimum_low", "optimum_high"))
        steps.append(SearchStep(number, point, value, best, point.noise, optimum, low, high, thought.get("origin")))
    return steps


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and what the mouse tells about it."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class BestTable:
    """The best configurations: a head with the columns' descriptions, and one row of cells each."""

    head: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


DOCS = {c.name: f"{c.doc} [{c.unit}]" if c.unit else c.doc for c in trial_columns()}
_LOSSES = {"a_loss_test": "A", "b_loss_test": "B", "merged_loss_test": "merged", "chosen_loss_test": "chosen"}
_SHOWN = {
    **{k: f"{v} loss" for k, v in _LOSSES.items()},
    "ensemble_loss_test": "ensemble loss",
    "a_accuracy_test": "A acc.",
    "b_accuracy_test": "B acc.",
    "merged_accuracy_test": "merged acc.",
    "chosen_accuracy_test": "chosen acc.",
    "ensemble_accuracy_test": "ensemble acc.",
}
_KNOB_HEADS = {
    "learning_rate": "η",
    "batch_size": "B",
    "momentum": "μ",
    "weight_decay": "λ",
    "augmentation_strength": "augm.",
}


def percent(value: float | None) -> str:
    """Return a share as per cent with one decimal."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _estimate_cell(point: ConfigPoint, column: str) -> Cell:
    found = point.values.get(column)
    if found is None:
        return Cell("–", f"{column} was not measured")
    spread = f" ± {short(found.error, 2)} (standard error, {found.n} repeats)" if found.error is not None else ""
    text = percent(found.mean) if "accuracy" in column else short(found.mean)
    return Cell(text, f"{column} = {short(found.mean, 5)}{spread}")


def best_table(trials: pa.Table, sweep: Sweep, n: int = 15) -> BestTable:
    """Return the `n` best configurations by the validation objective, with their test scores.

    Args:
        trials: The trials table.
        sweep: Names the objective and the noise definition.
        n: At most so many rows.
    """
    objective = OBJECTIVES[sweep.objective]
    points = config_points(trials, sweep.noise, [objective.column, *_SHOWN])
    scale = NOISE[sweep.noise]
    head = [
        Cell("rank", "order by the mean of the objective on validation over the repeats"),
        Cell("trial", f"{DOCS['number']}; the digest is shown on the number"),
        Cell(objective.label, DOCS[objective.column]),
        Cell("noise", f"{sweep.noise}: {scale.formula} [{scale.unit}], {scale.source}"),
        *(Cell(text, DOCS[k]) for k, text in _KNOB_HEADS.items()),
        *(Cell(text, DOCS[c]) for c, text in _SHOWN.items()),
        Cell("repeats", "ok repeats of all repeats of the configuration"),
    ]
    rows = [_best_row(i, p, objective.column) for i, p in enumerate(_best(points, objective)[:n], start=1)]
    return BestTable(tuple(head), tuple(rows))


def _best(points: Sequence[ConfigPoint], objective: Objective) -> list[ConfigPoint]:
    return winners(points, objective.column, objective.maximize)


def _best_row(rank: int, point: ConfigPoint, column: str) -> tuple[Cell, ...]:
    outcomes = ", ".join(f"{n} {name}" for name, n in point.outcomes.items())
    done = sum(point.outcomes.values())
    return (
        Cell(str(rank)),
        Cell("–" if point.number is None else str(point.number), f"digest {', '.join(point.digests)}; {point.detail}"),
        _estimate_cell(point, column),
        Cell(short(point.noise), f"noise = {short(point.noise, 6)}"),
        *(Cell(short(point.knobs.get(k)), f"{k} = {short(point.knobs.get(k), 6)}") for k in _KNOB_HEADS),
        *(_estimate_cell(point, c) for c in _SHOWN),
        Cell(f"{point.outcomes.get('ok', 0)}/{done}", outcomes),
    )
