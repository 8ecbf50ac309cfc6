"""Does one scalar explain the knobs? Noise ceiling, lack of fit, leftover test, and the index with free exponents.

======  ============================================================================================
symbol  meaning, for C configurations with r repeats each
======  ============================================================================================
z̄       mean of a configuration
s²      variance of a repeat about z̄, C(r−1) degrees of freedom
R²_c    noise ceiling: the share of Var(z̄) that is not scatter of repeats, 1 − s² mean(1/r) / Var(z̄)
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
from sweeper.analysis.evidence.linear import LeftOutErrors, design_matrix, least_squares, predict_left_out, wald_test
from sweeper.search.noise_sampler.single_index import DRAWS, MIN_CONFIGS, Basis, fit_index, has_enough
from trainables.noise import NOISE

_SETTING = {"learning_rate": "learning_rate", "batch_size": "batch_size", "momentum": "one_minus_momentum",
            "weight_decay": "weight_decay", "k_aug": "k_aug"}  # fmt: skip
_SIGN = {"batch_size": -1.0, "momentum": -1.0}


@dataclass(frozen=True)
class ExplainedShare:
    """How much of what repeats agree on the index explains; None where `reason` says why.

    Attributes:
        n_configs, n_trials: Configurations and repeats.
        ceiling: R²_c.
        r2: R² of f(ln S), each configuration predicted by a fit without it.
        beyond: How many of them lie beyond the others and are predicted at the nearest end.
        share: r2 / ceiling.
        f, f_above, f_below, p: Lack-of-fit F of the configurations about f(ln S), its degrees of freedom and its
            one-sided p.
    """

    n_configs: int
    n_trials: int
    ceiling: float | None = None
    r2: float | None = None
    beyond: int = 0
    share: float | None = None
    f: float | None = None
    f_above: int | None = None
    f_below: int | None = None
    p: float | None = None
    reason: str = ""


def measure_share(cells: Cells, noise: str) -> ExplainedShare:
    """Return ceiling, share explained and lack of fit of one definition on the configurations that have it."""
    own = cells.take(np.isfinite(cells.noise[noise]))
    n, trials = len(own), len(own.value)
    if n < MIN_CONFIGS or np.ptp(own.z) <= 0:
        return ExplainedShare(
            n, trials, reason=_explain_few(n) if n < MIN_CONFIGS else "every configuration has the same score"
        )
    axis = own.noise[noise]
    predicted = predict_left_out(own.z, own.size, [axis])
    r2, beyond = predicted.r2, int(predicted.beyond.sum())
    variance, below = own.pure
    if below < MIN_CONFIGS // 2 or not variance > 0:
        return ExplainedShare(n, trials, r2=r2, beyond=beyond, reason="ceiling and lack of fit need repeats: "
                         f"{trials} trials of {n} configurations")  # fmt: skip
    ceiling = noise_ceiling(own)
    x = design_matrix(Basis.of(axis)(axis))
    above = n - x.shape[1]
    f = float(np.sum(least_squares(x, own.z, own.size).residuals ** 2)) / above / variance
    return ExplainedShare(
        n,
        trials,
        ceiling,
        r2,
        beyond,
        r2 / ceiling if ceiling > 0 else None,
        f,
        above,
        below,
        float(stats.f.sf(f, above, below)),
    )


def noise_ceiling(cells: Cells) -> float:
    """Return R²_c."""
    variance, _ = cells.pure
    return 1.0 - variance * float((1 / cells.size).mean()) / float(cells.z.var(ddof=1))


def _explain_few(n: int) -> str:
    return f"{n} configurations have a noise and a score, at least {MIN_CONFIGS} are needed"


@dataclass(frozen=True)
class KnobTest:
    """Whether knobs tell more than the noise does; None where `reason` says why.

    Attributes:
        n: Configurations.
        added: What was added to f(ln S).
        f, f_above, f_below, p: Wald F of these as lines, errors clustered by configuration, and its two-sided p.
        lines: ΔR² of left-out configurations by these lines.
        index: The same by an index of the knobs with free exponents in place of the noise, which lines cannot express;
            None where the exponents cannot be estimated.
        finding: Whether they tell more.
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
    """Test whether ln B, ln 1/(1−μ), ln λ and augmentation tell more than f(ln S).

    Args:
        cells: Configurations with their tail raised.
        noise: Name of the definition.
        fitted: How an index with free exponents predicts these configurations, from
            `sweeper.analysis.evidence.ranking.cross_fit`.
        seed: Seed of the intervals.
    """
    own = cells.take(np.isfinite(cells.noise[noise]))
    if len(own) < MIN_CONFIGS:
        return KnobTest(len(own), reason=_explain_few(len(own)))
    axis = own.noise[noise]
    base_columns = design_matrix(Basis.of(axis)(axis))
    added = {k: v for k, v in own.factors.items() if k != "learning_rate" and np.ptp(v) > 0}
    both, names = base_columns, list[str]()
    for name, column in added.items():
        wider = design_matrix(both[:, 1:], column)
        names += [name] if wider.shape[1] > both.shape[1] else []
        both = wider
    if not names:
        return KnobTest(len(own), reason="no knob but the learning rate varies")
    if len(own) < both.shape[1] + 5:
        return KnobTest(len(own), reason=f"{len(own)} configurations are too few for {both.shape[1]} coefficients")
    rows = own.owner
    test = wald_test(least_squares(both[rows], own.value), rows, len(names))
    base = predict_left_out(own.z, own.size, [axis])
    lines = estimate_gain(base, predict_left_out(own.z, own.size, [axis], [own.factors[k] for k in names]), seed=seed)
    index = estimate_gain(base, fitted, seed=seed) if fitted is not None and len(fitted.errors) == len(own) else None
    finding = decide_finding(test.p, lines, index)
    return KnobTest(len(own), tuple(names), test.f, test.q, test.below, test.p, lines, index, finding)


@dataclass(frozen=True)
class Exponents:
    """The index with free exponents, scaled so that its first knob has exponent 1; None where `reason` says why.

    Attributes:
        n: Configurations, and `draws` bootstrap draws of them.
        unit_knob: The knob whose exponent is 1.
        value: Knob -> exponent of its factor (η, 1/B, 1/(1−μ), λ, k_aug), relative to the first knob's.
        low, high: Ends of the 90 % bootstrap intervals over configurations.
        named: Definition -> the same of its formula.
        r2: R² in the sample.
        shift: What `weight_decay = 0` or `augmentation` add to the index, in units of it.
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
    """Estimate the exponents of the index, with bootstrap intervals over configurations."""
    names = list(cells.factors)
    if len(cells) < MIN_CONFIGS or np.ptp(cells.z) <= 0:
        few = len(cells) < MIN_CONFIGS
        return Exponents(
            len(cells), reason=_explain_few(len(cells)) if few else "every configuration has the same score"
        )
    if len(names) < 2:
        return Exponents(len(cells), reason=f"{'one knob varies' if names else 'no knob varies'}: nothing to compare")
    if not has_enough(len(cells), len(names)):
        return Exponents(len(cells), reason=f"{len(cells)} configurations are too few for {len(names)} exponents")
    columns = np.column_stack([cells.factors[k] for k in names])
    starts = _starts(names, definitions)
    fitted = fit_index(columns, cells.z, cells.size, starts, draws=draws, seed=seed)
    best, low, high, r2 = fitted.best, fitted.low, fitted.high, fitted.r2
    knobs = [k for k in names if k in _SETTING]

    def by_knob(values: Array) -> dict[str, float]:
        return {k: float(values[names.index(k)]) for k in knobs}

    named = {d: found for d in definitions if (found := relative_exponents(d, knobs))}
    shift = {k: float(best[names.index(k)]) for k in names if k not in _SETTING}
    return Exponents(len(cells), draws, names[0], by_knob(best), by_knob(low), by_knob(high), named, r2, shift)


def relative_exponents(definition: str, knobs: list[str]) -> dict[str, float]:
    """Return the exponents of a predicted definition relative to the first knob's; empty where that has none."""
    exponents = NOISE[definition].exponents
    own = {k: _SIGN.get(k, 1.0) * float(exponents.get(_SETTING[k], 0.0)) for k in knobs}
    first = own[knobs[0]] if knobs else 0.0
    return {k: a / first for k, a in own.items()} if first and NOISE[definition].kind == "predicted" else {}


def _starts(names: list[str], definitions: tuple[str, ...]) -> list[Array]:
    knobs = [k for k in names if k in _SETTING]
    known = [relative_exponents(d, knobs) for d in definitions]
    starts = [np.array([r.get(k, 0.0) for k in names]) for r in known if r] or [np.eye(len(names))[0]]
    return [np.array(s) for s in sorted({tuple(s.tolist()) for s in starts})]


def compute_index(cells: Cells, exponents: Array) -> Array:
    """Return the index of each configuration, exponents in the order of its factors."""
    return np.column_stack(list(cells.factors.values())) @ exponents
