import dataclasses

import numpy as np
import pytest

from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.scorecard.badge import Word, summarize_verdict
from tests.support.trial_rows import flat, hump, monotone, sweep, table, trial


def badge(rows, objective: str = "gain_mean"):
    return summarize_verdict(analyse(table(rows), objective, draws=60))


def cliff(x: float, rng: np.random.Generator) -> float:
    return -rng.exponential(0.5) if x > 1.0 else 0.0


def falling(x: float, rng: np.random.Generator) -> float:
    return -monotone(x, rng)


def low_hump(x: float, rng: np.random.Generator) -> float:
    return 0.009 * float(np.exp(-0.5 * (x / 1.2) ** 2))


def test_a_hump_gets_its_place_and_interval() -> None:
    found = badge(sweep(hump, 60, 0))
    assert found.word == Word.HUMP == "Hump"
    assert found.reason.startswith("validation loss gain over the mean parent is best at noise 0.0")
    assert found.reason.endswith("falls on both sides")


def test_a_loss_rises_on_both_sides() -> None:
    assert badge(sweep(hump, 60, 0), "merged_loss").reason.endswith("rises on both sides")


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (cliff, "hardly changes up to a cliff near noise"),
        (lambda x, rng: 3 * monotone(x, rng), "rises up to the highest noise with viable pairs"),
        (lambda x, rng: 3 * falling(x, rng), "falls from the lowest tried noise on"),
    ],
    ids=["cliff", "rising", "falling"],
)
def test_another_shape_is_no_optimum(curve, reason: str) -> None:
    found = badge(sweep(curve, 60, 0))
    assert found.word == Word.NO_OPTIMUM
    assert reason in found.reason


def test_scores_that_noise_does_not_explain_have_no_optimum_only_in_a_large_table() -> None:
    assert badge(sweep(flat, 40, 0)).word == Word.UNDETERMINED
    found = badge(sweep(flat, 300, 2))
    assert found.word == Word.NO_OPTIMUM
    assert found.reason.startswith("noise explains less than 5 %")


def test_an_optimum_inside_whose_gate_does_not_pass_is_likely() -> None:
    found = badge(sweep(low_hump, 24, 4))
    assert found.word == Word.LIKELY
    assert "looks best at noise" in found.reason
    assert "but " in found.reason


def test_a_flat_curve_is_never_likely_or_a_hump() -> None:
    words = {badge(sweep(flat, 24, seed)).word for seed in range(6)}
    assert words <= {Word.UNDETERMINED, Word.NO_OPTIMUM}


def test_a_sampler_that_learns_leaves_it_undetermined() -> None:
    for curve in (hump, cliff):
        found = badge(sweep(curve, 60, 0, sampler="noise"))
        assert found.word == Word.UNDETERMINED
        assert "sampler chose these noises by results" in found.reason


def test_without_an_analysis_the_doubt_is_the_reason() -> None:
    assert summarize_verdict(None, "the table is damaged").reason == "the table is damaged"
    found = badge([trial(str(i), None, outcome="diverged") for i in range(8)])
    assert found.word == Word.UNDETERMINED
    assert "0 viable configurations" in found.reason


def test_an_optimum_at_an_edge_is_undetermined() -> None:
    found = analyse(table(sweep(hump, 60, 0)), draws=60)
    at_edge = dataclasses.replace(
        found,
        verdict="undetermined",
        regime=dataclasses.replace(found.regime, interior=False, edge_share=0.3),
        judged=dataclasses.replace(
            found.judged, gate=dataclasses.replace(found.judged.gate, p_up=0.2, p_down=0.2, p_flat=0.8)
        ),
    )
    assert summarize_verdict(at_edge).word == Word.UNDETERMINED
    assert summarize_verdict(at_edge).reason.endswith("30 % of the resampled optima lie at an edge of the tried noises")
