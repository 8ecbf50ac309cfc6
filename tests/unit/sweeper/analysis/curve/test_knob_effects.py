"""A knob that moves the best noise is named, one that does not is not."""

import math

import numpy as np
import pytest

from sweeper.analysis.curve.knob_effects import find_knob_effects
from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.evidence.linear import R2
from sweeper.analysis.regime import fit_regime
from tests.support.trial_rows import BEST, sweep, table, trial

DECAYS = (1e-4, 1e-3, 1e-2)


def by_decay(shift: float, seed: int = 0, repeats: int = 1):
    """Three decays, each with its best noise `shift` in log noise beyond the former's."""
    rng = np.random.default_rng(seed)
    return [
        trial(
            f"{k}-{i}",
            0.035 * math.exp(-0.5 * (x - shift * (k - 1)) ** 2) + 0.003 * rng.normal(),
            repeat=r,
            learning_rate=BEST * math.exp(x) * 3.2,
            weight_decay=decay,
            sampler="grid",
        )
        for k, decay in enumerate(DECAYS)
        for i, x in enumerate(np.linspace(-4, 4, 17))
        for r in range(repeats)
    ]


def test_a_pooled_optimum_over_a_knob_that_moves_it_says_so() -> None:
    rows = table(by_decay(1.6))
    found = fit_regime(rows)
    (moved,) = found.moved
    assert moved.knob == "weight_decay"
    assert [a.value for a in moved.at] == ["0.0001", "0.001", "0.01"]
    assert [math.log(a.optimum / BEST) for a in moved.at] == pytest.approx([-1.6, 0.0, 1.6], abs=0.35)
    assert f"; differs by λ: 0.0001: {moved.at[0].optimum:.3g} ({moved.at[0].low:.3g} to" in found.message
    analysis = analyse(rows, draws=30)
    assert " It differs by λ: 0.0001: " in analysis.sentences[0]
    assert analysis.record()["regime"]["moved"][0]["knob"] == "weight_decay"
    assert R2 in " ".join(analysis.sentences)


def test_without_such_a_knob_none_is_named() -> None:
    named = [fit_regime(table(by_decay(0.0, seed)), draws=50).moved for seed in range(12)]
    named += [fit_regime(table(sweep(lambda x, _: 0.035 * math.exp(-0.3 * x * x), 60, s)), draws=50).moved
              for s in range(12)]  # fmt: skip
    assert sum(map(bool, named)) <= 2  # 5 % of 24 are 1.2


def test_optima_outside_of_each_others_noises_are_not_compared() -> None:
    x = np.concatenate([np.linspace(0, 1, 12), np.linspace(2, 3, 12)])
    places = iter([(0.9, 0.8, 1.0), (2.1, 2.0, 2.2)])
    assert find_knob_effects(x, x, {"momentum": [0.0] * 12 + [0.9] * 12}, lambda *_: next(places)) == ()


def test_of_an_adaptive_search_no_knob_is_named() -> None:
    rows = [{**r, "sampler": "noise"} for r in by_decay(1.6)]
    assert fit_regime(table(rows), draws=50).moved == ()
