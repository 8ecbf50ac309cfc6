"""Findings of an analysis: the results of its tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sweeper.analysis.evidence.controls import Nested
from sweeper.analysis.evidence.exponents import ExplainedShare, Exponents, KnobTest
from sweeper.analysis.evidence.needs import Need
from sweeper.analysis.evidence.ranking import (
    Collapse,
    Ranking,
    Transfer,
)
from sweeper.analysis.evidence.shape import ShapeTest
from sweeper.analysis.evidence.verdict import Verdict
from sweeper.analysis.regime import Regime


@dataclass(frozen=True)
class Analysis:
    """Results of all tests of an objective and a noise; an impossible part carries a `reason`.

    Attributes:
        objective: Name in `OBJECTIVES`, with `label` for people.
        noise: Name in `NOISE`.
        split: Split of the scores: train, val or test.
        n_trials, n_configs: Viable trials with a noise and a score, and their configurations.
        n_tested: Number of configurations in the tests; fewer in large tables.
        set_aside: Trials whose settings results chose; no evidence rests on them if the map or `sweeper extend` added
            enough designed noises.
        tail: Number of trials that the floor of the bad tail raised.
        verdict: `hump`, `plateau then cliff` or `undetermined`.
        regime: Optimum, interval and curve.
        judged: The tests behind the verdict.
        shape: Test of isotonic against unimodal.
        explained: Noise ceiling and lack of fit of this noise.
        leftover: Test whether knobs explain more than this noise.
        exponents: Index with free exponents, and the exponents of the definitions.
        ranking: Definitions by R² of left-out configurations.
        transfer: Prediction of other knobs' sweeps from the learning-rate sweep.
        collapse: Distance of the sweeps from a common curve.
        controls: Tests beyond the parents' accuracy, alone and with each measured sharpness.
        needs: Trials that would make the answer firm.
        sentences: The findings as quotable sentences; the first one is the verdict.
    """

    objective: str
    label: str
    noise: str
    split: str
    n_trials: int
    n_configs: int
    n_tested: int
    set_aside: int
    tail: int
    verdict: str
    regime: Regime
    judged: Verdict
    shape: ShapeTest
    explained: ExplainedShare
    leftover: KnobTest
    exponents: Exponents
    ranking: Ranking
    transfer: Transfer
    collapse: Collapse
    controls: tuple[Nested, ...]
    needs: tuple[Need, ...]
    sentences: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the analysis as a record for JSON."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
