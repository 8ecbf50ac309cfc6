"""Which definition of the noise explains the objective best: ranking, influence, transfer from knob to knob, collapse.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
S       a definition of the noise, or the index with free exponents (`fitted`)
f       natural cubic spline with 5 degrees of freedom
e_c     error of configuration c as f(ln S) predicts it that was fitted without c
======  ============================================================================================

All definitions are compared on the same configurations: those that have all of them. `fitted` has its exponents, too,
from other configurations: those of the other nine tenths.

Source: collapse: Bhattacharjee & Seno 2001, doi 10.1088/0305-4470/34/33/302, eq. 3 with q = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweeper.analysis.evidence.cells import NAMED, Array, Cells, Rows
from sweeper.analysis.evidence.exponents import noise_ceiling
from sweeper.analysis.evidence.linear import LeftOutErrors, predict_left_out, r_squared
from sweeper.search.noise_sampler.single_index import MIN_CONFIGS, Basis, best_index

FITTED = "fitted"
FOLDS = 10
DRAWS = 300


@dataclass(frozen=True)
class Rank:
    """One definition on the common configurations.

    Attributes:
        name: Definition.
        r2: 1 − Σ e_c² / Σ (z_c − mean)², weighted by repeats.
        beyond: How many configurations lie beyond the others and are predicted at the nearest end.
        low, high: 90 % interval, bootstrap over configurations.
        share: r2 over the noise ceiling; None without repeats.
        wins: Share of the draws in which it is (one of) the best.
        same_as: Definitions that are a power of it, up to a factor, on these configurations.
    """

    name: str
    r2: float
    low: float
    high: float
    share: float | None
    wins: float
    beyond: int = 0
    same_as: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """The definitions, best first; empty where `reason` says why.

    Attributes:
        n: Configurations that have all of them.
        rows: The definitions.
        left_out: Definitions that fewer than half of the configurations have.
        influence: The fewest configurations without which the best named definition is no longer ahead of the next;
            None where there are no two.
        lead: Names of these two.
    """

    n: int
    rows: tuple[Rank, ...] = ()
    left_out: tuple[str, ...] = ()
    influence: int | None = None
    lead: tuple[str, ...] = ()
    reason: str = ""


def list_definitions(cells: Cells) -> tuple[str, ...]:
    """Return the definitions that vary and that at least half of the configurations have."""
    known = {n: x[np.isfinite(x)] for n, x in cells.noise.items()}
    return tuple(n for n in NAMED if len(known[n]) * 2 >= len(cells) and len(known[n]) and np.ptp(known[n]) > 1e-9)


def select_common(cells: Cells, names: tuple[str, ...]) -> Cells:
    """Return the configurations that have all these noises."""
    return cells.take(np.all([np.isfinite(cells.noise[n]) for n in names], axis=0)) if names else cells.take([])


def select_comparable(cells: Cells, names: tuple[str, ...], noise: str) -> Cells:
    """Return the configurations on which every R² is told.

    They have all definitions, so that one definition has one R². Where the shown noise is none of these, or too few
    configurations have all, they are those that have the shown noise.
    """
    shared = select_common(cells, names)
    if noise in names and len(shared) >= MIN_CONFIGS:
        return shared
    return cells.take(np.isfinite(cells.noise[noise]))


def rank(cells: Cells, fitted: LeftOutErrors | None = None, *, seed: int = 0, draws: int = DRAWS) -> Ranking:
    """Rank the definitions by how well they predict configurations that were left out.

    Args:
        cells: Configurations with their tail raised.
        fitted: How the index with free exponents predicts them, from `cross_fit`; None leaves `fitted` out.
        seed: Seed of the bootstrap.
        draws: Bootstrap draws.
    """
    names = list_definitions(cells)
    own = select_common(cells, names)
    missing = tuple(n for n in NAMED if n not in names and np.isfinite(cells.noise[n]).any())
    if len(own) < MIN_CONFIGS or np.ptp(own.z) <= 0:
        return Ranking(len(own), left_out=missing, reason=f"{len(own)} configurations have all noises and differ in "
                       f"score, at least {MIN_CONFIGS} are needed")  # fmt: skip
    found = {n: predict_left_out(own.z, own.size, [own.noise[n]]) for n in names}
    if fitted is not None:
        found[FITTED] = fitted
    errors = {n: f.errors for n, f in found.items()}
    deviation = found[names[0]].deviations
    counts = np.random.default_rng(seed).multinomial(len(own), np.full(len(own), 1 / len(own)), draws)
    drawn = {n: 1 - counts @ e / np.maximum(counts @ deviation, 1e-300) for n, e in errors.items()}
    best = np.max(list(drawn.values()), axis=0)
    top = noise_ceiling(own) if own.pure[1] >= MIN_CONFIGS // 2 else None
    rows: list[Rank] = []
    for n, f in found.items():
        r2 = f.r2
        low, high = np.quantile(drawn[n], [0.05, 0.95])
        wins = float(np.mean(drawn[n] >= best - 1e-6))
        same = tuple(o for o in names if o != n and n in names and _is_power(own, n, o))
        of_top = r2 / top if top and top > 0 else None
        rows.append(Rank(n, r2, float(low), float(high), of_top, wins, int(f.beyond.sum()), same))
    rows.sort(key=lambda r: -round(r.r2, 9))
    lead, number = measure_influence(rows, errors)
    return Ranking(len(own), tuple(rows), missing, number, lead)


def _is_power(cells: Cells, a: str, b: str) -> bool:
    return abs(float(np.corrcoef(cells.noise[a], cells.noise[b])[0, 1])) > 1 - 1e-9


def cross_fit(cells: Cells, exponents: Array, seed: int = 0) -> LeftOutErrors | None:
    """Return how an index with free exponents predicts configurations, its exponents from the other nine tenths.

    Args:
        cells: Configurations with their tail raised, all of which are predicted.
        exponents: Estimate to start from, in the order of the factors.
        seed: Seed of the folds.

    Returns:
        None where they are too few.
    """
    if len(cells) < max(MIN_CONFIGS, 4 * len(exponents) + 6) or np.ptp(cells.z) <= 0:
        return None
    columns = np.column_stack(list(cells.factors.values()))
    fold = np.random.default_rng(seed).permutation(len(cells)) % FOLDS
    errors, beyond, deviations = np.empty(len(cells)), np.zeros(len(cells), dtype=bool), np.empty(0)
    for k in range(FOLDS):
        rest = fold != k
        found, _ = best_index(columns[rest], cells.z[rest], cells.size[rest], [exponents])
        own = predict_left_out(cells.z, cells.size, [columns @ found])
        errors[~rest], beyond[~rest], deviations = own.errors[~rest], own.beyond[~rest], own.deviations
    best, _ = best_index(columns, cells.z, cells.size, [exponents])
    whole = predict_left_out(cells.z, cells.size, [columns @ best])
    return LeftOutErrors(errors, whole.inside, deviations, beyond, whole.columns + len(exponents) - 1)


def measure_influence(rows: list[Rank], errors: Mapping[str, Array]) -> tuple[tuple[str, ...], int | None]:
    """Return the best two named definitions, and the fewest configurations without which the first is not ahead.

    Args:
        rows: Definitions, best first.
        errors: Definition -> squared error of each configuration, as it is predicted without itself.
    """
    named = [r for r in rows if r.name != FITTED]
    following = next((r for r in named[1:] if r.name not in named[0].same_as), None)
    if following is None:
        return (), None
    ahead = errors[following.name] - errors[named[0].name]
    left = ahead.sum() - np.cumsum(np.sort(ahead)[::-1])
    return (named[0].name, following.name), int(np.argmax(left <= 0)) + 1


@dataclass(frozen=True)
class Transfer:
    """How well curves that were fitted on some values of a knob predict others; empty where `reason` says why.

    Attributes:
        kind: `sweeps`: fitted on one learning-rate sweep at fixed other knobs, predicted are those that differ in one
            knob; `halves`: fitted on the lower half of a knob's values, predicted the upper, and the reverse.
        n: Knob -> predictions.
        r2: Definition -> knob -> R² of them. `fitted` has its exponents from all configurations.
    """

    kind: str = ""
    n: Mapping[str, int] | None = None
    r2: Mapping[str, Mapping[str, float]] | None = None
    reason: str = ""


def measure_transfer(cells: Cells, axes: Mapping[str, Array]) -> Transfer:
    """Return how well each axis predicts the sweeps of one knob from those of the learning rate.

    Args:
        cells: Configurations that have all axes.
        axes: Definition -> log noise, shape (C,).
    """
    if len(cells) < MIN_CONFIGS or np.ptp(cells.z) <= 0:
        return Transfer(reason=f"{len(cells)} configurations have all noises and differ in score, at least "
                        f"{MIN_CONFIGS} are needed")  # fmt: skip
    kind, tasks = _sweeps(cells)
    if not tasks:
        kind, tasks = _halves(cells)
    if not tasks:
        return Transfer(reason="no knob has enough values to fit on some and predict others")
    n = {k: int(sum(len(t) for _, t in parts)) for k, parts in tasks.items()}
    r2: dict[str, dict[str, float]] = {}
    for name, axis in axes.items():
        r2[name] = {}
        for knob, parts in tasks.items():
            errors = [float(np.sum((cells.z[t] - _predict(cells, axis, fit, t)) ** 2)) for fit, t in parts]
            r2[name][knob] = r_squared(sum(errors), cells.z[np.concatenate([t for _, t in parts])])
    return Transfer(kind, n, r2)


_Tasks = dict[str, list[tuple[Rows, Rows]]]
MIN_SWEEP = 5
MAX_SWEEPS = 60


def _predict(cells: Cells, axis: Array, fit: Rows, to: Rows) -> Array:
    basis = Basis.of(axis[fit], max(1, min(5, len(fit) - 3)))
    x = np.column_stack([np.ones(len(fit)), basis(axis[fit])])
    coefficients = np.linalg.lstsq(x, cells.z[fit], rcond=None)[0]
    return np.column_stack([np.ones(len(to)), basis(axis[to])]) @ coefficients


def find_sweeps(cells: Cells) -> tuple[list[Rows], Array, list[str]]:
    """Return the learning-rate sweeps: configurations and the other knobs' values of each, and these knobs' names."""
    if not len(cells):
        return [], np.zeros((0, 0)), []
    names = [k for k in cells.knobs if k not in ("learning_rate", "k_aug") and np.isfinite(cells.knobs[k]).all()]
    names = [k for k in names if np.ptp(cells.knobs[k]) > 0]
    others = np.column_stack([cells.knobs[k] for k in names]) if names else np.zeros((len(cells), 1))
    values, group = np.unique(others, axis=0, return_inverse=True)
    parts = [np.flatnonzero(group.ravel() == g) for g in range(len(values))]
    kept = [g for g, p in enumerate(parts) if len(np.unique(cells.knobs["learning_rate"][p])) >= MIN_SWEEP]
    kept = [kept[int(i)] for i in np.linspace(0, len(kept) - 1, min(len(kept), MAX_SWEEPS))] if kept else []
    return [parts[g] for g in kept], values[kept], names


def _sweeps(cells: Cells) -> tuple[str, _Tasks]:
    parts, values, names = find_sweeps(cells)
    tasks: _Tasks = {}
    for i, fit in enumerate(parts):
        for j, to in enumerate(parts):
            differ = np.flatnonzero(values[i] != values[j])
            if len(differ) == 1 and names:
                tasks.setdefault(names[int(differ[0])], []).append((fit, to))
    return "sweeps", tasks


def _halves(cells: Cells) -> tuple[str, _Tasks]:
    tasks: _Tasks = {}
    for knob, values in cells.knobs.items():
        if not len(cells) or not np.isfinite(values).all() or knob == "k_aug" or np.ptp(values) <= 0:
            continue
        low = values <= np.median(values) if values.max() > np.median(values) else values < np.median(values)
        if min(low.sum(), (~low).sum()) >= MIN_CONFIGS // 2:
            a, b = np.flatnonzero(low), np.flatnonzero(~low)
            tasks[knob] = [(a, b), (b, a)]
    return "halves", tasks


@dataclass(frozen=True)
class Collapse:
    """How well the learning-rate sweeps fall on one curve; empty where `reason` says why.

    Attributes:
        n_curves: Sweeps at fixed other knobs.
        n: Definition -> points that lie within another sweep's range.
        misfit: Definition -> mean |z − another sweep's curve there|, objective as the study is told it.
        raw: The same against the learning rate.
        scatter: What repeats alone would yield, 2 s / √(π r); None without repeats.
    """

    n_curves: int
    n: Mapping[str, int] | None = None
    misfit: Mapping[str, float] | None = None
    raw: float | None = None
    scatter: float | None = None
    reason: str = ""


def measure_collapse(cells: Cells, axes: Mapping[str, Array]) -> Collapse:
    """Return how far the sweeps are from each other along each axis.

    Source: Bhattacharjee & Seno 2001, eq. 3, q = 1: curves interpolated linearly within their range.
    """
    parts = find_sweeps(cells)[0] if len(cells) else []
    if len(parts) < 2:
        return Collapse(len(parts), reason=f"{len(parts)} learning-rate sweeps at fixed other knobs, at least 2 are "
                        f"needed ({MIN_SWEEP} learning rates each)")  # fmt: skip
    found = {name: _mean_distance(cells, axis, parts) for name, axis in axes.items()}
    raw, _ = _mean_distance(cells, np.log(cells.knobs["learning_rate"]), parts)
    variance, freedom = cells.pure
    scatter = 2 * (variance / np.pi * float((1 / cells.size).mean())) ** 0.5 if freedom > 0 else None
    return Collapse(
        len(parts), {n: c for n, (_, c) in found.items()}, {n: m for n, (m, _) in found.items()}, raw, scatter
    )


def _mean_distance(cells: Cells, axis: Array, parts: list[Rows]) -> tuple[float, int]:
    total, number = 0.0, 0
    for i, a in enumerate(parts):
        order = a[np.argsort(axis[a], kind="stable")]
        for j, b in enumerate(parts):
            if i == j:
                continue
            inside = b[(axis[b] >= axis[order[0]]) & (axis[b] <= axis[order[-1]])]
            total += float(np.abs(cells.z[inside] - np.interp(axis[inside], axis[order], cells.z[order])).sum())
            number += len(inside)
    return (total / number if number else float("nan")), number
