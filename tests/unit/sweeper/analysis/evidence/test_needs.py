"""What is missing: nothing for a firm answer, else the noises and repeats that would decide it."""

import math
from typing import Any

import numpy as np
import pytest

from sweeper.analysis.evidence.cells import Cells, collect, raise_tail_along
from sweeper.analysis.evidence.needs import LEVELS, Need, find_needs
from sweeper.analysis.evidence.verdict import HUMP, judge
from sweeper.search.objectives import OBJECTIVES
from tests.support.trial_rows import table, trial

GAIN = OBJECTIVES["gain_mean"]
NOISES = np.geomspace(1e-4, 1, 9)


def cells(noises: Any, repeats: int, scatter: float, *, sampler: str = "grid", peak: float = 1e-2) -> Cells:
    rng = np.random.default_rng(3)
    rows = [
        trial(
            f"c{i}",
            0.05 * math.exp(-(math.log(noise / peak) ** 2) / 8) + rng.normal(0, scatter),
            repeat=r,
            learning_rate=3.2 * noise,
            sampler=sampler,
        )
        for i, noise in enumerate(noises)
        for r in range(repeats)
    ]
    return raise_tail_along(collect(table(rows), GAIN), "paper")


def asked(found: Cells, best: Any = (), interval: tuple[float, float] | None = (8e-3, 1.2e-2)) -> tuple[Need, ...]:
    return find_needs(found, judge(found, found, "paper", draws=100), "paper", np.log(np.array(best)), interval)


def test_a_firm_answer_needs_nothing() -> None:
    found = cells(NOISES, 6, 0.003)
    assert judge(found, found, "paper", draws=200).name == HUMP
    assert asked(found, [1e-2] * 100) == ()


def test_few_noises_ask_for_a_design_around_them() -> None:
    found = asked(cells([1e-3, 1e-2], 3, 0.003))
    assert [n.repeats for n in found] == [3] * LEVELS
    noises = [n.noise for n in found]
    assert noises[0] * noises[-1] == pytest.approx(1e-5, rel=0.01)  # centred on the two
    assert noises[-1] / noises[0] == pytest.approx(300, rel=0.01)
    assert "only 2 different noises" in found[0].why


def test_without_any_viable_pair_no_noise_can_be_named() -> None:
    assert asked(raise_tail_along(collect(table([]), GAIN), "paper")) == ()


def test_an_adaptive_sweep_asks_for_designed_noises_over_its_range() -> None:
    found = asked(cells(NOISES, 3, 0.003, sampler="noise"))
    assert [found[0].noise, found[-1].noise] == [pytest.approx(1e-4, rel=0.01), pytest.approx(1, rel=0.01)]
    assert "the noise sampler chose these noises by results" in found[0].why


def test_optima_at_an_edge_ask_for_noises_beyond_it() -> None:
    found = asked(cells(NOISES, 3, 0.003, peak=1.0), [1.0] * 40 + [0.1] * 60)
    beyond = [n.noise for n in found if n.noise]
    assert len(beyond) == 3
    assert beyond == sorted(beyond)
    assert beyond[0] / 1.0 == pytest.approx(1e4 ** (1 / 9), rel=0.01)
    assert "40% of the resampled optima lie at the upper edge" in found[0].why


def test_a_wide_interval_asks_for_noises_within_its_gaps() -> None:
    found = asked(cells(NOISES, 6, 0.003), [1e-2] * 100, (2e-3, 5e-2))
    assert sorted(n.noise for n in found) == [pytest.approx(v, rel=0.01) for v in (5.62e-3, 1.78e-2)]
    assert "spans a factor 25" in found[0].why


def test_single_trials_are_repeated_once_for_each_noise() -> None:
    found = asked(cells(NOISES, 1, 0.003), [1e-2] * 100)
    assert {n.config for n in found} == {f"c{i}" for i in range(9)}
    assert {n.repeats for n in found} == {2}
    assert "needs 3 replicates" in found[0].why


def test_a_weak_test_asks_for_as_many_repeats_as_its_slopes_need() -> None:
    found = cells(NOISES, 3, 0.02)
    verdict = judge(found, found, "paper", draws=100)
    assert not verdict.gate.passed
    wanted = find_needs(found, verdict, "paper", np.log(np.full(100, 1e-2)), (8e-3, 1.2e-2))
    t = min(verdict.gate.slope_up / verdict.gate.se_up, -verdict.gate.slope_down / verdict.gate.se_down)
    assert t > 0.5
    assert {n.repeats for n in wanted} == {min(8, math.ceil(3 * (2.2 / t) ** 2)) - 3}
