"""Ranking of the noise definitions: R², influence, transfer from knob to knob, and collapse.

======  ============================================================================================
symbol  meaning
======  ============================================================================================
S       a definition of the noise, or the index with free exponents (`fitted`)
f       natural cubic spline with 5 degrees of freedom
e_c     error of configuration c under an f(ln S) fitted without c
======  ============================================================================================

The comparison uses the configurations that have all definitions. The exponents of `fitted` come from the other nine
tenths of the configurations.

Source: collapse: Bhattacharjee & Seno 2001, doi 10.1088/0305-4470/34/33/302, eq. 3 with q = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sweeper.analysis.evidence.cells import NAMED, Array, Cells, Rows
from sweeper.analysis.evidence.exponents import noise_ceiling
from sweeper.analysis.evidence.linear import LeftOutErrors, predict_left_out, r_squared
from sweeper.formatting import number, pluralize
from sweeper.search.noise_sampler.single_index import MIN_CONFIGS, Basis, best_index

FITTED = "fitted"
FOLDS = 10
DRAWS = 300


@dataclass(frozen=True)
class Rank:
    """Rank of one definition on the common configurations.

    Attributes:
        name: Name of the definition.
        r2: 1 − Σ e_c² / Σ (z_c − mean)², weighted by repeats.
        beyond: Number of configurations beyond the range of the others; the nearest end predicts these.
        low, high: 90 % interval, bootstrap over configurations.
        share: r2 / noise ceiling; None without repeats.
        wins: Share of the draws in which it is the best or ties with the best.
        same_as: Definitions that are a power of it up to a factor, on these configurations.
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
    """The definitions, best first; empty if `reason` explains why.

    Attributes:
        n: Number of configurations that have all definitions.
        rows: The definitions.
        left_out: Definitions that fewer than half of the configurations have.
        influence: The fewest configurations whose removal ends the lead of the best named definition over the next;
            None without two definitions.
        lead: Names of these two definitions.
    """

    n: int
    rows: tuple[Rank, ...] = ()
    left_out: tuple[str, ...] = ()
    influence: int | None = None
    lead: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Preferred:
    """Definition that ranks before the shown one.

    Attributes:
        noise: Its name.
        r2: R² of left-out configurations by it.
        wins: Share of the resampled tables in which it is the best or ties with the best.
        shown_r2: R² by the shown definition.
        shown_wins: The share for the shown definition.
    """

    noise: str
    r2: float
    wins: float
    shown_r2: float
    shown_wins: float

    def compare_with(self, shown: str) -> str:
        """Return the comparison with the shown definition as a sentence."""
        name = f"the index with free exponents ({FITTED})" if self.noise == FITTED else self.noise
        return (
            f"{name} ranks before {shown}: R² {number(self.r2)} against {number(self.shown_r2)}, best in "
            f"{100 * self.wins:.0f} % against {100 * self.shown_wins:.0f} % of the resampled tables."
        )


def find_preferred(ranking: Ranking, shown: str) -> Preferred | None:
    """Return the definition that ranks first; None if it is the shown one or equals it, or without a ranking."""
    rows = ranking.rows
    own = next((r for r in rows if r.name == shown), None)
    if own is None or rows[0] is own or shown in rows[0].same_as:
        return None
    return Preferred(rows[0].name, rows[0].r2, rows[0].wins, own.r2, own.wins)


def list_definitions(cells: Cells) -> tuple[str, ...]:
    """Return the varying definitions that at least half of the configurations have."""
    known = {n: x[np.isfinite(x)] for n, x in cells.noise.items()}
    return tuple(n for n in NAMED if len(known[n]) * 2 >= len(cells) and len(known[n]) and np.ptp(known[n]) > 1e-9)


def select_common(cells: Cells, names: tuple[str, ...]) -> Cells:
    """Return the configurations that have all of these definitions."""
    return cells.take(np.all([np.isfinite(cells.noise[n]) for n in names], axis=0)) if names else cells.take([])


def select_comparable(cells: Cells, names: tuple[str, ...], noise: str) -> Cells:
    """Return the configurations for all reported R².

    These have all definitions, so that one definition has one R². If too few do, or the shown noise is not among the
    definitions, these are the configurations that have the shown noise.
    """
    shared = select_common(cells, names)
    if noise in names and len(shared) >= MIN_CONFIGS:
        return shared
    return cells.take(np.isfinite(cells.noise[noise]))


def rank(cells: Cells, fitted: LeftOutErrors | None = None, *, seed: int = 0, draws: int = DRAWS) -> Ranking:
    """Return the ranking of the definitions by R² of left-out configurations.

    Args:
        cells: Configurations with a raised tail.
        fitted: Errors of the index with free exponents, from `cross_fit`; None omits `fitted`.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap draws.
    """
    names = list_definitions(cells)
    shared = select_common(cells, names)
    missing = tuple(n for n in NAMED if n not in names and np.isfinite(cells.noise[n]).any())
    if len(shared) < MIN_CONFIGS or np.ptp(shared.z) <= 0:
        return Ranking(len(shared), left_out=missing, reason=_explain_few(len(shared)))
    errors_of = {n: predict_left_out(shared.z, shared.size, [shared.noise[n]]) for n in names}
    if fitted is not None:
        errors_of[FITTED] = fitted
    errors = {n: f.errors for n, f in errors_of.items()}
    deviation = errors_of[names[0]].deviations
    counts = np.random.default_rng(seed).multinomial(len(shared), np.full(len(shared), 1 / len(shared)), draws)
    drawn = {n: 1 - counts @ e / np.maximum(counts @ deviation, 1e-300) for n, e in errors.items()}
    best = np.max(list(drawn.values()), axis=0)
    top = noise_ceiling(shared) if shared.pure[1] >= MIN_CONFIGS // 2 else None
    rows: list[Rank] = []
    for n, f in errors_of.items():
        r2 = f.r2
        low, high = np.quantile(drawn[n], [0.05, 0.95])
        wins = float(np.mean(drawn[n] >= best - 1e-6))
        same = tuple(o for o in names if o != n and n in names and _is_power(shared, n, o))
        of_top = r2 / top if top and top > 0 else None
        rows.append(Rank(n, r2, float(low), float(high), of_top, wins, int(f.beyond.sum()), same))
    rows.sort(key=lambda r: -round(r.r2, 9))
    lead, influence = measure_influence(rows, errors)
    return Ranking(len(shared), tuple(rows), missing, influence, lead)


def _is_power(cells: Cells, a: str, b: str) -> bool:
    return abs(float(np.corrcoef(cells.noise[a], cells.noise[b])[0, 1])) > 1 - 1e-9


def cross_fit(cells: Cells, exponents: Array, seed: int = 0) -> LeftOutErrors | None:
    """Return the errors of an index with free exponents, fitted to the other nine tenths of the configurations.

    Args:
        cells: Configurations with a raised tail.
        exponents: Initial estimate, in the order of the factors.
        seed: Seed of the folds.

    Returns:
        The errors; None for too few configurations.
    """
    if len(cells) < max(MIN_CONFIGS, 4 * len(exponents) + 6) or np.ptp(cells.z) <= 0:
        return None
    columns = np.column_stack(list(cells.factors.values()))
    fold = np.random.default_rng(seed).permutation(len(cells)) % FOLDS
    errors, beyond, deviations = np.empty(len(cells)), np.zeros(len(cells), dtype=bool), np.empty(0)
    for k in range(FOLDS):
        rest = fold != k
        fold_exponents, _ = best_index(columns[rest], cells.z[rest], cells.size[rest], [exponents])
        part = predict_left_out(cells.z, cells.size, [columns @ fold_exponents])
        errors[~rest], beyond[~rest], deviations = part.errors[~rest], part.beyond[~rest], part.deviations
    best, _ = best_index(columns, cells.z, cells.size, [exponents])
    whole = predict_left_out(cells.z, cells.size, [columns @ best])
    return LeftOutErrors(errors, whole.inside, deviations, beyond, whole.columns + len(exponents) - 1)


def _explain_few(n: int) -> str:
    have = pluralize(n, "configuration has", "configurations have")
    return f"{have} all noises and differ in score, the test needs {MIN_CONFIGS}"


def measure_influence(rows: list[Rank], errors: Mapping[str, Array]) -> tuple[tuple[str, ...], int | None]:
    """Return the two best named definitions, and the fewest configurations whose removal ends the lead of the first.

    Args:
        rows: Definitions, best first.
        errors: Definition -> squared error per left-out configuration.
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
    """R² of curves that predict other values of a knob than they were fitted to; empty if `reason` explains why.

    Attributes:
        kind: `sweeps` fits one learning-rate sweep and predicts the sweeps that differ in one knob. `halves` fits one
            half of a knob's values and predicts the other.
        n: Knob -> number of predictions.
        r2: Definition -> knob -> R² of the predictions. The exponents of `fitted` come from all configurations.
    """

    kind: str = ""
    n: Mapping[str, int] | None = None
    r2: Mapping[str, Mapping[str, float]] | None = None
    reason: str = ""


def measure_transfer(cells: Cells, axes: Mapping[str, Array]) -> Transfer:
    """Return the R² at which each axis predicts the sweeps of another knob from a learning-rate sweep.

    Args:
        cells: Configurations that have all axes.
        axes: Definition -> log noise, shape (C,).
    """
    if len(cells) < MIN_CONFIGS or np.ptp(cells.z) <= 0:
        return Transfer(reason=_explain_few(len(cells)))
    kind, tasks = _sweeps(cells)
    if not tasks:
        kind, tasks = _halves(cells)
    if not tasks:
        return Transfer(reason="no knob has enough values to fit some and predict others")
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
    """Return the learning-rate sweeps: their configurations, the other knobs' values, and these knobs' names."""
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
    """Distance of the learning-rate sweeps from a common curve; empty if `reason` explains why.

    Attributes:
        n_curves: Number of sweeps at fixed other knobs.
        n: Definition -> number of points within another sweep's range.
        misfit: Definition -> mean |z − another sweep's curve|, on the study's scale.
        raw: Misfit along the learning rate.
        scatter: Misfit from the scatter of repeats alone, 2 s / √(π r); None without repeats.
    """

    n_curves: int
    n: Mapping[str, int] | None = None
    misfit: Mapping[str, float] | None = None
    raw: float | None = None
    scatter: float | None = None
    reason: str = ""


def measure_collapse(cells: Cells, axes: Mapping[str, Array]) -> Collapse:
    """Return the mean distance between the sweeps along each axis.

    Source: Bhattacharjee & Seno 2001, eq. 3, q = 1: curves interpolated linearly within their range.
    """
    parts = find_sweeps(cells)[0] if len(cells) else []
    if len(parts) < 2:
        return Collapse(len(parts), reason=f"{len(parts)} learning-rate sweeps at fixed other knobs, the test needs 2 "
                        f"({MIN_SWEEP} learning rates each)")  # fmt: skip
    distances = {name: _mean_distance(cells, axis, parts) for name, axis in axes.items()}
    raw, _ = _mean_distance(cells, np.log(cells.knobs["learning_rate"]), parts)
    variance, freedom = cells.pure
    scatter = 2 * (variance / np.pi * float((1 / cells.size).mean())) ** 0.5 if freedom > 0 else None
    return Collapse(
        len(parts), {n: c for n, (_, c) in distances.items()}, {n: m for n, (m, _) in distances.items()}, raw, scatter
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
