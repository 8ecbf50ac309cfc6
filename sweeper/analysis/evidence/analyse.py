"""The evidence on one table of trials: verdict, regime, tests of the one scalar, ranking, controls, what is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sweeper.analysis.evidence.cells import Array, Cells, collect, tame, tame_along, thin
from sweeper.analysis.evidence.controls import controls
from sweeper.analysis.evidence.exponents import Exponents, explained, fit_exponents, leftover
from sweeper.analysis.evidence.findings import Analysis
from sweeper.analysis.evidence.needs import needed
from sweeper.analysis.evidence.ranking import (
    FITTED,
    candidates,
    collapse,
    common,
    compared,
    cross_fitted,
    rank,
    transfer,
)
from sweeper.analysis.evidence.sentences import sentences
from sweeper.analysis.evidence.shape import shape
from sweeper.analysis.evidence.two_lines import DIGITS, MIN_LEVELS
from sweeper.analysis.evidence.verdict import judge
from sweeper.analysis.regime import DESIGNED_SAMPLERS, EXTEND, Regime, fit_regime
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES
from trainables.result import Outcome


def analyse(
    trials: pa.Table,
    objective: str = "gain_mean",
    noise: str = "paper",
    *,
    split: str | None = None,
    seed: int = 0,
    draws: int = 300,
) -> Analysis:
    """Test whether an objective has an optimal noise, and whether that noise explains the knobs.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`.
        noise: Name in `NOISE`, predicted or measured.
        split: Split of the scores; by default validation, or test where nothing else was measured.
        seed: Seed of every bootstrap; the result is a function of it and of the table.
        draws: Bootstrap draws.

    Returns:
        The analysis; its parts say themselves where they are not possible.

    Raises:
        UnknownName: No such objective or noise.
        ValueError: `draws` is below 1, no such split, or the noise has no column.
    """
    check_shown(noise)
    split = split or OBJECTIVES[objective].split_in(trials)
    with threadpool_limits(1):  # thousands of small matrices: further threads only wait for each other
        analysis = _analysed(trials, objective, noise, split, seed, draws)
    return replace(analysis, sentences=sentences(analysis))


def _analysed(trials: pa.Table, objective: str, noise: str, split: str, seed: int, draws: int) -> Analysis:
    goal = OBJECTIVES[objective].on(split)
    designed = _by_design(trials, noise)
    regime = fit_regime(designed, objective, noise, split=split, seed=seed, draws=draws)
    by_design = thin(collect(designed, goal))
    along = tame_along(by_design, noise)
    broken = thin(collect(designed, goal, broken=True))
    judged = judge(along, tame_along(broken, noise), noise, seed=seed, draws=draws)
    test = shape(by_design.along(noise), noise, seed=seed)
    tamed = tame(by_design if designed is trials else thin(collect(trials, goal)))
    names = candidates(tamed)
    exponents = fit_exponents(tamed, names, draws=max(1, draws // 3), seed=seed)
    free = _free(tamed, exponents)
    shared, tested = common(tamed, names), compared(tamed, names, noise)
    fitted = None if free is None else cross_fitted(shared, free, seed)
    axes = {n: shared.noise[n] for n in names}
    if free is not None:
        axes[FITTED] = np.column_stack(list(shared.factors.values())) @ free
    return Analysis(
        objective=objective,
        label=goal.label,
        noise=noise,
        split=split,
        n_trials=regime.n_trials,
        n_configs=regime.n_configs,
        n_tested=len(along),
        set_aside=trials.num_rows - designed.num_rows,
        tail=along.tail,
        verdict=judged.name,
        regime=regime,
        judged=judged,
        shape=test,
        explained=explained(tested, noise),
        leftover=leftover(tested, noise, fitted if noise in names else None, seed=seed),
        exponents=exponents,
        ranking=rank(tamed, fitted, seed=seed, draws=draws),
        transfer=transfer(shared, axes),
        collapse=collapse(shared, axes),
        controls=controls(trials, goal, noise, split),
        needs=needed(along, judged, noise, np.log(np.array(judged.optima)), _interval(regime)),
    )


def _interval(regime: Regime) -> tuple[float, float] | None:
    return None if regime.low is None or regime.high is None else (regime.low, regime.high)


def _by_design(trials: pa.Table, noise: str) -> pa.Table:
    """Return the trials to judge the shape by: those of an extension's design where a sampler chose the others."""
    samplers = set(trials["sampler"].to_pylist()) - {None}
    if samplers <= DESIGNED_SAMPLERS or EXTEND not in samplers:
        return trials
    own = trials.filter(pa.array([s in DESIGNED_SAMPLERS for s in trials["sampler"].to_pylist()], pa.bool_()))
    viable = zip(own["outcome"].to_pylist(), own[f"noise_{noise}"].to_pylist(), strict=True)
    levels = {round(math.log(v), DIGITS) for outcome, v in viable if outcome == Outcome.OK and v is not None and v > 0}
    return own if len(levels) >= MIN_LEVELS else trials


def _free(cells: Cells, exponents: Exponents) -> Array | None:
    """Return the free exponents in the order of the factors; None where they were not estimated."""
    if exponents.reason:
        return None
    both = {**exponents.value, **exponents.shift}
    return np.array([both[k] for k in cells.factors])
