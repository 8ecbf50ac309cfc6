"""Analysis of one table of trials: verdict, regime, tests of the noise scale, ranking, controls and needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from sweeper.analysis.evidence.cells import Array, Cells, collect, raise_tail, raise_tail_along, subsample
from sweeper.analysis.evidence.controls import run_controls
from sweeper.analysis.evidence.exponents import Exponents, fit_exponents, measure_share, run_knob_test
from sweeper.analysis.evidence.findings import Analysis
from sweeper.analysis.evidence.needs import find_needs
from sweeper.analysis.evidence.ranking import (
    FITTED,
    cross_fit,
    list_definitions,
    measure_collapse,
    measure_transfer,
    rank,
    select_common,
    select_comparable,
)
from sweeper.analysis.evidence.sentences import write_sentences
from sweeper.analysis.evidence.shape import compare_shapes
from sweeper.analysis.evidence.verdict import judge
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.analysis.stages.designed import select_designed
from sweeper.search.noise_targets import check_shown
from sweeper.search.objectives import OBJECTIVES

DRAWS = 300


def analyse(
    trials: pa.Table,
    objective: str = "gain_mean",
    noise: str = "paper",
    *,
    split: str | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Analysis:
    """Return the analysis of an objective: whether it has an optimal noise, and whether that noise explains the knobs.

    Args:
        trials: Trials table as `sweeper.storage.tables.read_trials` yields it.
        objective: Name in `OBJECTIVES`.
        noise: Name in `NOISE`, predicted or measured.
        split: Split of the scores; by default validation, or test if nothing else was measured.
        seed: Seed of every bootstrap; the table and the seed determine the result.
        draws: Number of bootstrap draws.

    Returns:
        The analysis; a part that is impossible carries a reason.

    Raises:
        UnknownName: No such objective or noise.
        ValueError: `draws` is below 1, no such split, or the noise has no column.
    """
    check_shown(noise)
    split = split or OBJECTIVES[objective].split_in(trials)
    with threadpool_limits(1):  # for thousands of small matrices further threads only wait
        analysis = _analyse(trials, objective, noise, split, seed, draws)
    return replace(analysis, sentences=write_sentences(analysis))


def _analyse(trials: pa.Table, objective: str, noise: str, split: str, seed: int, draws: int) -> Analysis:
    goal = OBJECTIVES[objective].on(split)
    designed = select_designed(trials, noise)
    regime = fit_regime(designed, objective, noise, split=split, seed=seed, draws=draws)
    by_design = subsample(collect(designed, goal))
    along = raise_tail_along(by_design, noise)
    broken = subsample(collect(designed, goal, broken=True))
    verdict = judge(along, raise_tail_along(broken, noise), noise, seed=seed, draws=draws)
    test = compare_shapes(by_design.order_along(noise), noise, seed=seed)
    raised = raise_tail(by_design)
    names = list_definitions(raised)
    exponents = fit_exponents(raised, names, draws=max(1, draws // 3), seed=seed)
    free = _free_exponents(raised, exponents)
    shared, tested = select_common(raised, names), select_comparable(raised, names, noise)
    fitted = None if free is None else cross_fit(shared, free, seed)
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
        verdict=verdict.name,
        regime=regime,
        judged=verdict,
        shape=test,
        explained=measure_share(tested, noise),
        leftover=run_knob_test(tested, noise, fitted if noise in names else None, seed=seed),
        exponents=exponents,
        ranking=rank(raised, fitted, seed=seed, draws=draws),
        transfer=measure_transfer(shared, axes),
        collapse=measure_collapse(shared, axes),
        controls=run_controls(designed, goal, noise, split),
        needs=find_needs(along, verdict, noise, np.log(np.array(verdict.optima)), _interval(regime)),
    )


def find_analysis(trials: pa.Table, objective: str, noise: str) -> tuple[Analysis | None, str]:
    """Return `analyse` of the trials; where it is impossible, None and the reason."""
    try:
        return analyse(trials, objective, noise), ""
    except ValueError as error:
        return None, str(error)


def _interval(regime: Regime) -> tuple[float, float] | None:
    return None if regime.low is None or regime.high is None else (regime.low, regime.high)


def _free_exponents(cells: Cells, exponents: Exponents) -> Array | None:
    """Return the free exponents in the order of the factors; None without an estimate."""
    if exponents.reason:
        return None
    both = {**exponents.value, **exponents.shift}
    return np.array([both[k] for k in cells.factors])
