"""Does one scalar explain the knobs? Noise ceiling, lack of fit, test of the knobs, and index with free exponents.

======  ============================================================================================
symbol  meaning, for C configurations with r repeats each
======  ============================================================================================
z̄       mean of a configuration
s²      variance of a repeat about z̄, C(r−1) degrees of freedom
R²_c    noise ceiling: share of Var(z̄) beyond the scatter of repeats, 1 − s² mean(1/r) / Var(z̄)
f       natural cubic spline with 5 degrees of freedom
======  ============================================================================================

Source: lack of fit: Draper & Smith 1998, section 2.1; single index: Ichimura 1993, doi 10.1016/0304-4076(93)90114-K;
percentile interval: Efron & Tibshirani 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from sweeper.analysis.evidence.cells import Array, Cells
from sweeper.analysis.evidence.gains import Finding, Gain, decide_finding, estimate_gain
from sweeper.analysis.evidence.linear import (
    LeftOutErrors,
    design_matrix,
    least_squares,
    predict_by_mean,
    predict_left_out,
    wald_test,
)
from sweeper.formatting import name_knob, pluralize
from sweeper.search.noise_sampler.single_index import DRAWS, MIN_CONFIGS, Basis, fit_index, has_enough
from trainables.noise import NOISE

_SETTING = {"learning_rate": "learning_rate", "batch_size": "batch_size", "momentum": "one_minus_momentum",
            "weight_decay": "weight_decay", "k_aug": "k_aug"}  # fmt: skip


@dataclass(frozen=True)
class ExplainedShare:
    """Share of the reproducible variance that the index explains; None if `reason` explains why.

    Attributes:
        n_configs, n_trials: Number of configurations and repeats.
        ceiling: R²_c.
        r2: R² of f(ln S) for left-out configurations.
        gain: ΔR² of f(ln S) over the mean score.
        beyond: Number of configurations beyond the range of the others; the nearest end predicts these.
        share: r2 / ceiling.
        f, f_above, f_below, p: Lack-of-fit F of the configurations about f(ln S), its degrees of freedom and its
            one-sided p.
    """

    n_configs: int
    n_trials: int
    ceiling: float | None = None
    r2: float | None = None
    gain: Gain | None = None
    beyond: int = 0
    share: float | None = None
    f: float | None = None
    f_above: int | None = None
    f_below: int | None = None
    p: float | None = None
    reason: str = ""


def measure_share(cells: Cells, noise: str) -> ExplainedShare:
    """Return ceiling, explained share and lack of fit of a noise definition, for the configurations that have it."""
    known = cells.take(np.isfinite(cells.noise[noise]))
    n, trials = len(known), len(known.value)
    if n < MIN_CONFIGS or np.ptp(known.z) <= 0:
        return ExplainedShare(
            n, trials, reason=_explain_few(n) if n < MIN_CONFIGS else "every configuration has the same score"
        )
    axis = known.noise[noise]
    errors = predict_left_out(known.z, known.size, [axis])
    r2, beyond = errors.r2, int(errors.beyond.sum())
    gain = estimate_gain(predict_by_mean(known.z, known.size), errors)
    variance, below = known.pure
    if below < MIN_CONFIGS // 2 or not variance > 0:
        why = f"ceiling and lack of fit need repeats: {pluralize(trials, 'trial')} of {pluralize(n, 'configuration')}"
        return ExplainedShare(n, trials, r2=r2, gain=gain, beyond=beyond, reason=why)
    ceiling = noise_ceiling(known)
    x = design_matrix(Basis.of(axis)(axis))
    above = n - x.shape[1]
    f = float(np.sum(least_squares(x, known.z, known.size).residuals ** 2)) / above / variance
    return ExplainedShare(
        n,
        trials,
        ceiling,
        r2,
        gain,
        beyond,
        r2 / ceiling if ceiling > 0 else None,
        f,
        above,
        below,
        float(stats.f.sf(f, above, below)),
    )


def noise_ceiling(cells: Cells) -> float:
    """Return the noise ceiling R²_c."""
    variance, _ = cells.pure
    return 1.0 - variance * float((1 / cells.size).mean()) / float(cells.z.var(ddof=1))


def _explain_few(n: int) -> str:
    return (
        f"{pluralize(n, 'configuration has', 'configurations have')} a noise and a score, the test needs {MIN_CONFIGS}"
    )


@dataclass(frozen=True)
class KnobTest:
    """Whether knobs explain more than the noise does; None if `reason` explains why.

    Attributes:
        n: Number of configurations.
        added: Factors that enter as linear terms beside f(ln S).
        f, f_above, f_below, p: Wald F of the lines with errors clustered by configuration, and its two-sided p value.
        lines: ΔR² of left-out configurations by these lines.
        index: ΔR² by an index with free exponents in place of the noise, which lines cannot express; None without
            estimated exponents.
        finding: Whether the knobs explain more.
    """

    n: int
    added: tuple[str, ...] = ()
    f: float | None = None
    f_above: int | None = None
    f_below: int | None = None
    p: float | None = None
    lines: Gain | None = None
    index: Gain | None = None
    finding: Finding | None = None
    reason: str = ""


def run_knob_test(cells: Cells, noise: str, fitted: LeftOutErrors | None = None, *, seed: int = 0) -> KnobTest:
    """Test whether ln B, ln 1/(1−μ), ln λ and augmentation explain more than f(ln S).

    Args:
        cells: Configurations with a raised tail.
        noise: Name of the definition.
        fitted: Errors of an index with free exponents on these configurations, from
            `sweeper.analysis.evidence.ranking.cross_fit`.
        seed: Seed of the intervals.
    """
    known = cells.take(np.isfinite(cells.noise[noise]))
    if len(known) < MIN_CONFIGS:
        return KnobTest(len(known), reason=_explain_few(len(known)))
    axis = known.noise[noise]
    base_columns = design_matrix(Basis.of(axis)(axis))
    added = {k: v for k, v in known.factors.items() if k != "learning_rate" and np.ptp(v) > 0}
    both, names = base_columns, list[str]()
    for name, column in added.items():
        wider = design_matrix(both[:, 1:], column)
        names += [name] if wider.shape[1] > both.shape[1] else []
        both = wider
    if not names:
        return KnobTest(len(known), reason="only the learning rate varies")
    if len(known) < both.shape[1] + 5:
        few = f"{pluralize(len(known), 'configuration is', 'configurations are')} too few"
        return KnobTest(len(known), reason=f"{few} for {both.shape[1]} coefficients")
    rows = known.owner
    test = wald_test(least_squares(both[rows], known.value), rows, len(names))
    base = predict_left_out(known.z, known.size, [axis])
    lines = estimate_gain(
        base, predict_left_out(known.z, known.size, [axis], [known.factors[k] for k in names]), seed=seed
    )
    index = estimate_gain(base, fitted, seed=seed) if fitted is not None and len(fitted.errors) == len(known) else None
    finding = decide_finding(test.p, lines, index)
    return KnobTest(len(known), tuple(names), test.f, test.q, test.below, test.p, lines, index, finding)


@dataclass(frozen=True)
class Exponents:
    """Index with free exponents, scaled to exponent 1 of its first knob; None if `reason` explains why.

    Attributes:
        n: Number of configurations, and `draws` of bootstrap draws.
        unit_knob: The knob whose exponent is 1.
        value: Knob -> exponent of its factor (η, 1/B, 1/(1−μ), λ, k_aug), relative to the first knob's.
        low, high: Ends of the 90 % bootstrap intervals over configurations.
        named: Definition -> knob -> exponent in its formula.
        r2: In-sample R².
        shift: Contribution of `weight_decay = 0` or `augmentation` to the index, in units of the index.
    """

    n: int
    draws: int = 0
    unit_knob: str = ""
    value: Mapping[str, float] = field(default_factory=lambda: {})
    low: Mapping[str, float] = field(default_factory=lambda: {})
    high: Mapping[str, float] = field(default_factory=lambda: {})
    named: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: {})
    r2: float | None = None
    shift: Mapping[str, float] = field(default_factory=lambda: {})
    reason: str = ""


def fit_exponents(cells: Cells, definitions: tuple[str, ...], *, draws: int = DRAWS, seed: int = 0) -> Exponents:
    """Return estimated exponents of the index, with bootstrap intervals over configurations."""
    names = list(cells.factors)
    if len(cells) < MIN_CONFIGS or np.ptp(cells.z) <= 0:
        few = len(cells) < MIN_CONFIGS
        return Exponents(
            len(cells), reason=_explain_few(len(cells)) if few else "every configuration has the same score"
        )
    if len(names) < 2:
        return Exponents(len(cells), reason=f"{'one knob varies' if names else 'no knob varies'}: nothing to compare")
    if not has_enough(len(cells), len(names)):
        few = f"{pluralize(len(cells), 'configuration is', 'configurations are')} too few"
        return Exponents(len(cells), reason=f"{few} for {len(names)} exponents")
    columns = np.column_stack([cells.factors[k] for k in names])
    starts = _starts(names, definitions)
    fitted = fit_index(columns, cells.z, cells.size, starts, draws=draws, seed=seed)
    best, low, high, r2 = fitted.best, fitted.low, fitted.high, fitted.r2
    knobs = [k for k in names if k in _SETTING]

    def by_knob(values: Array) -> dict[str, float]:
        return {k: float(values[names.index(k)]) for k in knobs}

    named = {d: exponents for d in definitions if (exponents := relative_exponents(d, knobs))}
    shift = {k: float(best[names.index(k)]) for k in names if k not in _SETTING}
    return Exponents(len(cells), draws, names[0], by_knob(best), by_knob(low), by_knob(high), named, r2, shift)


def relative_exponents(definition: str, knobs: list[str]) -> dict[str, float]:
    """Return the exponents of a predicted definition relative to the first knob's; empty if that knob has none."""
    exponents = NOISE[definition].exponents
    signed = {k: (-1.0 if name_knob(k).divides else 1.0) * float(exponents.get(_SETTING[k], 0.0)) for k in knobs}
    first = signed[knobs[0]] if knobs else 0.0
    return {k: a / first for k, a in signed.items()} if first and NOISE[definition].kind == "predicted" else {}


def _starts(names: list[str], definitions: tuple[str, ...]) -> list[Array]:
    knobs = [k for k in names if k in _SETTING]
    known = [relative_exponents(d, knobs) for d in definitions]
    starts = [np.array([r.get(k, 0.0) for k in names]) for r in known if r] or [np.eye(len(names))[0]]
    return [np.array(s) for s in sorted({tuple(s.tolist()) for s in starts})]


def compute_index(cells: Cells, exponents: Array) -> Array:
    """Return the index per configuration; the exponents follow the order of its factors."""
    return np.column_stack(list(cells.factors.values())) @ exponents
