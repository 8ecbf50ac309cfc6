"""Checks: the tests behind a verdict, each with its outcome and one sentence.

The outcome *open* means that a test ran and decided nothing: a large p alone is no evidence against an effect. The
tests of the shape need designed noises, so they count as *not tested* where an adaptive sampler chose the noises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sweeper.analysis.evidence.gains import Finding
from sweeper.analysis.evidence.linear import R2
from sweeper.analysis.evidence.ranking import find_preferred
from sweeper.analysis.evidence.sentences import SHARPNESS_WORDS, format_p, format_percent
from sweeper.analysis.regime import EDGE
from sweeper.formatting import name_knob, number, pluralize
from sweeper.search.objectives import OBJECTIVES

if TYPE_CHECKING:
    from sweeper.analysis.evidence.controls import Nested
    from sweeper.analysis.evidence.findings import Analysis

NO_SHARPNESS = "The trials did not measure sharpness; `sweeper run --landscape` does."


class CheckOutcome(StrEnum):
    """Outcome of a check."""

    PASS = "pass"
    FAIL = "fail"
    OPEN = "open"
    NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Check:
    """One test behind a verdict.

    Attributes:
        claim: What holds if it passes.
        outcome: Whether it does.
        sentence: The finding with its numbers, or why there is none.
    """

    claim: str
    outcome: CheckOutcome
    sentence: str


def list_checks(analysis: Analysis) -> tuple[Check, ...]:
    """Return the checks of an analysis: first those of the shape, then those of the noise definition."""
    return (*_check_shape(analysis), *_check_noise(analysis), *_check_controls(analysis))


def _check(claim: str, passed: bool, sentence: str) -> Check:
    return Check(claim, CheckOutcome.PASS if passed else CheckOutcome.FAIL, sentence)


def _not_tested(claim: str, reason: str) -> Check:
    return Check(claim, CheckOutcome.NOT_TESTED, f"{reason[:1].upper()}{reason[1:].rstrip('.')}.")


def _check_shape(a: Analysis) -> Iterator[Check]:
    better, worse = ("Rises", "Falls") if OBJECTIVES[a.objective].maximize else ("Falls", "Rises")
    up, down = f"{better} up to the best noise", f"{worse} beyond it"
    inside, robust = "Best noise inside the tried range", "Holds without any one configuration"
    hump = "A hump fits better than any monotone curve"
    if a.regime.adaptive:
        why = "an adaptive sampler chose the noises, which biases the shape"
        yield from (_not_tested(claim, why) for claim in (up, down, inside, robust, hump))
        return
    gate, share, left = a.judged.gate, a.judged.edge_share, a.judged.left_out
    if gate.p_up is None or gate.p_down is None:
        yield from (_not_tested(claim, gate.reason or a.judged.why) for claim in (up, down))
    else:
        # without the break: beside the best noise it would look like a second one
        n = pluralize(gate.n, "configuration")
        yield _check(up, gate.p_up < 0.05, f"Line through the lower noises: {format_p(gate.p_up)} ({n}).")
        yield _check(down, gate.p_down < 0.05, f"Line through the higher noises: {format_p(gate.p_down)}.")
    if share is None:
        yield _not_tested(inside, a.judged.why)
    else:
        yield _check(inside, share < EDGE, f"{format_percent(share)} of the resampled optima lie at an edge.")
    if left.p is None or left.edge_share is None:
        yield _not_tested(robust, "only where the first three checks pass")
    else:
        worst = f"p is at most {number(left.p)} and the share at an edge at most {format_percent(left.edge_share)}"
        yield _check(
            robust, left.p < 0.05 and left.edge_share < EDGE and not left.undecided, f"Without any one, {worst}."
        )
    if a.shape.p is None:
        yield _not_tested(hump, a.shape.reason)
    else:
        yield _check(hump, a.shape.p < 0.05, f"Against the best monotone curve: {format_p(a.shape.p)}.")


def _check_noise(a: Analysis) -> Iterator[Check]:
    alone, knobs = f"{a.noise} alone fits the scores", "No knob explains more than the noise"
    explained, left = a.explained, a.leftover
    if explained.p is None:
        yield _not_tested(alone, explained.reason)
    else:
        yield _check(alone, explained.p >= 0.05, f"Lack of fit beyond the scatter of repeats: {format_p(explained.p)}.")
    if left.finding is None or left.lines is None:
        yield _not_tested(knobs, left.reason)
    else:
        found = {Finding.MORE: CheckOutcome.FAIL, Finding.NO_MORE: CheckOutcome.PASS}
        more = (
            f"Adding the knobs changes R² by {number(left.lines.value)} ({_interval(left.lines.low, left.lines.high)})."
        )
        yield Check(knobs, found.get(left.finding, CheckOutcome.OPEN), more)
    yield _check_exponents(a)
    yield _check_rank(a)


def _interval(low: float, high: float) -> str:
    return f"90 % interval {number(low)} to {number(high)}"


def _check_exponents(a: Analysis) -> Check:
    claim, e = f"Free exponents agree with {a.noise}", a.exponents
    named = {k: v for k, v in e.named.get(a.noise, {}).items() if k in e.value and k != e.unit_knob}
    if e.reason or not named:
        return _not_tested(claim, e.reason or f"no exponent of {a.noise} can be compared")
    within = {k: e.low[k] <= v <= e.high[k] for k, v in named.items()}
    texts = [
        f"{name_knob(k).factor} {number(e.value[k])} ({number(e.low[k])} to {number(e.high[k])}, given {number(v)})"
        for k, v in named.items()
    ]
    return _check(claim, all(within.values()), f"{', '.join(texts)}.")


def _check_rank(a: Analysis) -> Check:
    claim = f"No definition ranks above {a.noise}"
    own = next((r for r in a.ranking.rows if r.name == a.noise), None)
    if own is None:
        return _not_tested(claim, a.ranking.reason or f"most configurations lack {a.noise}")
    if preferred := find_preferred(a.ranking, a.noise):
        outcome = CheckOutcome.FAIL if own.wins < 0.05 else CheckOutcome.OPEN
        return Check(claim, outcome, preferred.compare_with(a.noise))
    share = f"{a.noise} is the best in {format_percent(own.wins)} of the resampled tables"
    return Check(claim, CheckOutcome.PASS, f"{R2} {number(own.r2)}; {share}.")


def _check_controls(a: Analysis) -> Iterator[Check]:
    for control in a.controls:
        yield _check_control(control)
    if not any(c.sharpness for c in a.controls):
        yield Check("Noise explains more than sharpness", CheckOutcome.NOT_TESTED, NO_SHARPNESS)


def _check_control(c: Nested) -> Check:
    other = SHARPNESS_WORDS[c.sharpness] if c.sharpness else "the parents' accuracy"
    claim = f"Noise explains more than {other}"
    if c.finding is None or c.p is None:
        return _not_tested(claim, c.reason)
    found = {Finding.MORE: CheckOutcome.PASS, Finding.NO_MORE: CheckOutcome.FAIL}
    return Check(claim, found.get(c.finding, CheckOutcome.OPEN), f"Nested regression: {format_p(c.p, 'two-sided')}.")
