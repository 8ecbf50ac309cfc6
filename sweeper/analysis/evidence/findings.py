"""Findings of an analysis: what each test found."""

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
    """What a table of trials says about an objective and a noise. Parts that are not possible carry a `reason`.

    Attributes:
        objective: Name in `OBJECTIVES`, `label` the same for people.
        noise: Name in `NOISE`.
        split: Split of the scores: train, val or test.
        n_trials, n_configs: Viable trials with a noise and a score, and their configurations.
        n_tested: Configurations that the tests looked at; fewer in large tables.
        set_aside: Trials whose noises a sampler chose that learns, left out of verdict, optimum and shape where
            `sweeper extend` has added enough noises by design.
        tail: Trials that were raised to the floor of the bad tail, along the noise.
        verdict: `hump`, `plateau then cliff` or `undetermined`.
        sentences: The findings, quotable; the first one is the verdict.
        regime: Optimum, interval and curve.
        judged: What the verdict rests on.
        shape: Isotonic against unimodal.
        explained, leftover: Noise ceiling, lack of fit, and whether knobs tell more, of this noise.
        exponents: The index with free exponents, beside each definition's.
        ranking: Definitions by R² of left-out configurations.
        transfer: From the learning-rate sweep to those of the other knobs.
        collapse: How well the sweeps fall on one curve.
        controls: Beyond the parents' accuracy, and beyond each sharpness that was measured beside it.
        needs: Trials that are missing for a firm answer.
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
    """The findings as sentences; the first one is the verdict."""

    def record(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
