"""Findings of an analysis as quotable sentences with numbers, intervals and n."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sweeper.analysis.evidence.gains import Finding, Gain
from sweeper.analysis.evidence.linear import R2
from sweeper.analysis.evidence.ranking import FITTED
from sweeper.analysis.evidence.verdict import HUMP, UNDETERMINED
from sweeper.formatting import at_share, name_knob, number, pluralize
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.evidence.ranking import Ranking

ONE_SIDED, TWO_SIDED = "one-sided", "two-sided"
_TERMS = {"weight_decay = 0": "[λ = 0]", "augmentation": "augmentation"}
SHARPNESS_WORDS = {"hessian_trace": "Hessian trace", "hessian_trace_scaled": "scale-free Hessian trace",
              "lambda_max": "largest Hessian eigenvalue", "sharpness_worst": "worst-case sharpness",
              "sharpness_average": "average-case sharpness"}  # fmt: skip


def write_sentences(a: Analysis) -> tuple[str, ...]:
    """Return one sentence per finding; the first one is the verdict."""
    parts = [
        _verdict(a),
        _set_aside(a),
        _gate(a),
        _unviable_pairs(a),
        _shape(a),
        _explained_share(a),
        _knob_test(a),
        _exponents(a),
        _ranking(a),
    ]
    parts += [describe_influence(a.ranking), _transfer(a), _collapse(a), *_controls(a), _tail(a)]
    return tuple(p for p in parts if p)


def explain_no_needs(a: Analysis) -> str:
    """Return a phrase on further trials for an analysis without needs."""
    if a.verdict != UNDETERMINED:
        return "this answer needs no further trials"
    if not a.n_configs:
        return "no viable trial has a score and this noise, so no further trials can be proposed"
    return "no known further trials would decide it"


def format_p(p: float, sides: str = ONE_SIDED) -> str:
    """Return `one-sided p = ...`; below the precision of a bootstrap or a tail, `one-sided p < 1e-4`."""
    return f"{sides} p < 1e-4" if p < 1e-4 else f"{sides} p = {p:.2g}"


def format_percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{100 * value:.0f} %"


def name_aim(a: Analysis) -> str:
    """Return what further trials give: after a hump only a narrower interval is missing."""
    return "a narrower answer" if a.verdict == HUMP else "a firm answer"


def _verdict(a: Analysis) -> str:
    scale, regime = NOISE[a.noise], a.regime
    unit = "" if scale.unit == "1" else f" {scale.unit}"
    label = a.label.partition(" [")[0] + at_share(regime.proxy)
    n = f"{pluralize(a.n_configs, 'configuration')}, {pluralize(a.n_trials, 'trial')}"
    if regime.optimum is None:
        return f"{a.verdict}: {label} against {scale.formula}: {regime.message} ({n})."
    interval = f"90 % interval {number(regime.low)} to {number(regime.high)}"
    place = f"at {scale.formula} = {number(regime.optimum)}{unit} ({interval})"
    rest = "".join(f" It {effect.sentence}." for effect in regime.moved) + f" This rests on {n}."
    if a.verdict == "hump":
        return f"hump: {label} is best {place}. It {_better_verb(a)}s before and {_worse_verb(a)}s beyond.{rest}"
    if a.verdict == "plateau then cliff":
        cliff = f"{scale.formula} = {number(a.judged.gate.break_noise)}{unit}"
        change = f"{label} hardly changes up to a cliff near {cliff} and {_worse_verb(a)}s beyond it"
        return f"plateau then cliff: {change}. It is best {place}: {a.judged.why}.{rest}"
    return f"undetermined: {label} is best {place}, but {a.judged.why}.{rest}"


def _set_aside(a: Analysis) -> str:
    if not a.set_aside:
        return ""
    designed, adaptive = pluralize(a.n_trials, "viable trial"), pluralize(a.set_aside, "trial")
    return (
        f"All evidence rests on the {designed} at designed noises. The {adaptive} of pilots, search and confirmation "
        "enter no test, since results chose their settings."
    )


def _gate(a: Analysis) -> str:
    gate, left = a.judged.gate, a.judged.left_out
    if gate.reason or gate.p_up is None or gate.p_down is None:
        return f"Two-lines test impossible: {gate.reason or a.judged.why}."
    lower = f"{_direction_verb(a, gate.slope_up)} by {_slope(gate.slope_up, gate.se_up)}{_unit(a)}"
    higher = f"{_direction_verb(a, gate.slope_down)} by {_slope(gate.slope_down, gate.se_down)}{_unit(a)}"
    n = f"{pluralize(gate.n, 'configuration')} at {pluralize(gate.levels, 'noise')}"
    parts = [
        f"Two-lines test on viable pairs ({n}): at low noise it {lower} ({_better_verb(a)} {format_p(gate.p_up)}). "
        f"At high noise it {higher} ({_worse_verb(a)} {format_p(gate.p_down)}).",
        f"Slopes are per factor e of noise, with errors {_errors(gate.errors)}.",
        f"The test parts its lines at {number(gate.break_noise)}, which is not the best noise.",
    ]
    if a.judged.edge_share is not None:
        parts.append(f"{format_percent(a.judged.edge_share)} of the resampled optima lie at an edge.")
    if left.p is not None and left.edge_share is not None:
        share = f"at most {format_percent(left.edge_share)} of the optima lie at an edge"
        parts.append(f"Without any one configuration, {ONE_SIDED} p <= {number(left.p)}, and {share}.")
    return " ".join(parts)


def _better_verb(a: Analysis) -> str:
    return "rise" if OBJECTIVES[a.objective].maximize else "fall"


def _worse_verb(a: Analysis) -> str:
    return "fall" if OBJECTIVES[a.objective].maximize else "rise"


def _direction_verb(a: Analysis, slope: float | None) -> str:
    # the tests use the study's scale, where larger is better
    return f"{_better_verb(a) if (slope or 0) > 0 else _worse_verb(a)}s"


def _unit(a: Analysis) -> str:
    """Return the unit of a difference on the study's scale, after a blank."""
    if OBJECTIVES[a.objective].inverse is math.exp:
        return " in ln"
    unit = a.label.partition("[")[2].rstrip("]")
    return f" {unit}" if unit else ""


def _slope(slope: float | None, se: float | None) -> str:
    return f"{number(abs(slope or 0))} ± {number(se)}"


def _errors(kind: str) -> str:
    return "from replicates" if kind == "replicates" else kind


def _unviable_pairs(a: Analysis) -> str:
    test = a.judged.gate_all
    if test.p_up is None or test.p_down is None or test.n == a.judged.gate.n:
        return ""
    return (
        f"With unviable and diverged pairs at the cap: {_better_verb(a)} {format_p(test.p_up)}, {_worse_verb(a)} "
        f"{format_p(test.p_down)} "
        f"(n = {pluralize(test.n, 'configuration')})."
    )


def _shape(a: Analysis) -> str:
    test = a.shape
    if test.p is None or test.statistic is None:
        return f"Hump against monotone curve not tested: {test.reason}."
    better = "better" if test.p < 0.05 else "not significantly better"
    return (
        f"A hump fits the {pluralize(test.levels, 'noise')} with 3 or more trials {better} "
        f"than any monotone curve: {format_p(test.p)} (residual bootstrap, {test.draws} draws, "
        f"n = {pluralize(test.n, 'trial')}; scatter of replicates of a configuration). The hump removes "
        f"{format_percent(test.statistic)} of the monotone curve's misfit."
    )


def _explained_share(a: Analysis) -> str:
    e = a.explained
    if e.r2 is None:
        return f"Explained share not determined: {e.reason}."
    r2 = f"{R2} of {a.noise}: {number(e.r2)}"
    if e.ceiling is not None and e.share is not None:
        r2 += f", {format_percent(e.share)} of the noise ceiling R²_c = {number(e.ceiling)}"
    n = f"n = {pluralize(e.n_configs, 'configuration')}{_all_noises(a, e.n_configs)}, {pluralize(e.n_trials, 'trial')}"
    r2 += f" ({n}).{_beyond(e.beyond)}"
    if e.p is None:
        return f"{r2} {e.reason[:1].upper()}{e.reason[1:]}."
    fit = "does not fit them" if e.p < 0.05 else "fits them"
    return (
        f"{r2} A curve in noise {fit} within the scatter of repeats: lack of fit F({e.f_above}, {e.f_below}) = "
        f"{number(e.f)}, {format_p(e.p)}."
    )


def _all_noises(a: Analysis, n: int) -> str:
    return " with all noises" if n < a.n_tested and n == a.ranking.n else ""


def _beyond(count: int, bound: str = "") -> str:
    """Return a sentence on configurations beyond the range of the others, after a blank; empty without any."""
    if not count:
        return ""
    first = f"{bound}{pluralize(count, 'configuration lies', 'configurations lie')}"
    return f" {first[:1].upper()}{first[1:]} beyond the range of the others, whose nearest end predicts the score."


def _knob_test(a: Analysis) -> str:
    left = a.leftover
    if left.p is None or left.lines is None or left.finding is None:
        return f"Test of the knobs impossible: {left.reason}."
    added = ", ".join(_TERMS.get(k) or name_knob(k).log for k in left.added)
    finding = _describe_finding(left.finding, added, "explain", "the noise")
    text = (
        f"{finding}: F({left.f_above}, {left.f_below}) = {number(left.f)}, {format_p(left.p, TWO_SIDED)} "
        f"(n = {pluralize(left.n, 'configuration')}). As added linear terms, ΔR² is {_interval(left.lines)}."
    )
    if left.index is not None:
        text += f" As an index with free exponents, it is {_interval(left.index)}."
    return text


def _describe_finding(finding: Finding, what: str, explain: str, than: str) -> str:
    """Return the finding of a control as the start of a sentence."""
    if finding == Finding.NOT_DETECTED:
        do = "does" if explain == "explains" else "do"
        return f"{what} {do} not detectably explain more than {than}"
    return f"{what} {explain} {finding} than {than}"


def _describe_reverse(finding: Finding | None, what: str) -> str:
    if finding is None:
        return "The reverse is not tested"
    return f"In reverse, {_describe_finding(finding, what, 'explain' if ' and ' in what else 'explains', 'the noise')}"


def _interval(gain: Gain) -> str:
    return f"{number(gain.value)}, between {number(gain.low)} and {number(gain.high)} (90 %)"


def _exponents(a: Analysis) -> str:
    e = a.exponents
    if e.reason:
        return f"Free exponents not estimated: {e.reason}."
    parts: list[str] = []
    for knob, value in e.value.items():
        if knob == e.unit_knob:
            continue
        text = f"{name_knob(knob).factor} {number(value)} ({number(e.low[knob])} to {number(e.high[knob])}"
        given = e.named.get(a.noise, {}).get(knob)
        parts.append(f"{text}; {a.noise} {number(given)})" if given is not None else f"{text})")
    unit = name_knob(e.unit_knob).quantity
    return (
        f"Free exponents relative to {unit}'s, with 90 % bootstrap intervals (n = {pluralize(e.n, 'configuration')}): "
        f"{', '.join(parts)}. Their in-sample R² is {number(e.r2)}."
    )


def _ranking(a: Analysis) -> str:
    r = a.ranking
    if r.reason:
        return f"Definitions not ranked: {r.reason}."
    seen: set[str] = set()
    parts: list[str] = []
    for row in r.rows:
        if row.name in seen:
            continue
        seen |= {row.name, *row.same_as}
        name = " = ".join((row.name, *row.same_as))
        parts.append(f"{name} {number(row.r2)} ({number(row.low)} to {number(row.high)})")
    most = _beyond(max(row.beyond for row in r.rows), "up to ")
    return (
        f"Definitions by {R2}, with 90 % bootstrap intervals (n = {pluralize(r.n, 'configuration')} with all noises): "
        f"{', '.join(parts)}.{most}"
    )


def describe_influence(r: Ranking) -> str:
    """Return a sentence on the configurations that decide the best definition's lead; empty without two definitions."""
    if r.influence is None:
        return ""
    first, second = r.lead
    if r.influence >= r.n:
        return f"{first} has no lead over {second}."
    few = "the configuration that favours" if r.influence == 1 else f"the {r.influence} configurations that favour"
    verdict = ": do not rely on this lead" if r.influence <= 2 else ""
    return f"Without {few} it most, {first} is no longer ahead of {second}{verdict}."


def _transfer(a: Analysis) -> str:
    t = a.transfer
    if t.r2 is None or t.n is None:
        return f"Transfer from knob to knob not tested: {t.reason}."
    what = "R² of predicting one half of a knob's values from the other half"
    if t.kind == "sweeps":
        what = "R² of predicting, from a learning-rate sweep, the sweeps that differ in one knob"
    shown = [n for n in dict.fromkeys((a.noise, *(r.name for r in a.ranking.rows[:1]), FITTED)) if n in t.r2]
    knobs = [f"{name_knob(k).name} (n = {n}) " + ", ".join(f"{name} {number(t.r2[name][k])}" for name in shown)
             for k, n in t.n.items()]  # fmt: skip
    return f"{what}: {'; '.join(knobs)}."


def _collapse(a: Analysis) -> str:
    c = a.collapse
    if c.misfit is None or c.n is None or a.noise not in c.misfit:
        return f"Collapse not measured: {c.reason or f'most configurations lack {a.noise}'}."
    alone = f"; repeats alone {number(c.scatter)}{_unit(a)}" if c.scatter is not None else ""
    return (
        f"Collapse: {c.n_curves} learning-rate sweeps lie {number(c.misfit[a.noise])}{_unit(a)} apart along "
        f"{a.noise}, {number(c.raw)}{_unit(a)} along the learning rate{alone} (mean distance, "
        f"n = {pluralize(c.n[a.noise], 'point')})."
    )


def _controls(a: Analysis) -> list[str]:
    out: list[str] = []
    for c in a.controls:
        rest = f"{SHARPNESS_WORDS[c.sharpness]} and parents' accuracy" if c.sharpness else "parents' accuracy"
        if c.p is None or c.p_reverse is None or c.gain is None or c.gain_reverse is None or c.finding is None:
            out.append(f"Control for {rest} impossible: {c.reason}.")
            continue
        n = f"n = {pluralize(c.n, 'trial')} of {pluralize(c.configs, 'configuration')}"
        out.append(
            f"{_describe_finding(c.finding, a.noise, 'explains', rest)}: F({c.df}, {c.configs - 1}) = {number(c.f)}, "
            f"{format_p(c.p, TWO_SIDED)}, ΔR² {_interval(c.gain)} ({n}). {_describe_reverse(c.finding_reverse, rest)}: "
            f"{format_p(c.p_reverse, TWO_SIDED)}, ΔR² {_interval(c.gain_reverse)}.{_beyond(c.beyond)}"
        )
    if not any(c.sharpness for c in a.controls):
        out.append("No control for sharpness: the trials did not measure it (`sweeper run --landscape` does).")
    return out


def _tail(a: Analysis) -> str:
    parts: list[str] = []
    if a.tail:
        parts.append(f"a floor raises {pluralize(a.tail, 'trial')} far below the others")
    if a.n_tested < a.n_configs:
        parts.append(f"{a.n_tested} of {pluralize(a.n_configs, 'configuration')} count, evenly spread")
    return f"In the tests, {' and '.join(parts)}." if parts else ""
