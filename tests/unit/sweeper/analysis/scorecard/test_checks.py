import pytest

from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.scorecard.checks import NO_SHARPNESS, CheckOutcome, list_checks
from sweeper.formatting import number
from tests.support.evidence_cells import bell, grid
from tests.support.trial_rows import flat, hump, sweep, table, trial


def outcomes(rows, objective: str = "gain_mean") -> dict[str, str]:
    return {c.claim: c.outcome for c in list_checks(analyse(table(rows), objective, draws=60))}


@pytest.fixture(scope="module")
def designed():
    return list_checks(analyse(table(grid(bell, scatter=0.004)), draws=60))


def test_a_designed_hump_passes(designed) -> None:
    found = {c.claim: c.outcome for c in designed}
    for claim in (
        "Rises up to the best noise",
        "Falls beyond it",
        "Best noise inside the tried range",
        "Holds without any one configuration",
        "A hump fits better than any monotone curve",
        "paper alone fits the scores",
        "Free exponents agree with paper",
        "No definition ranks above paper",
    ):
        assert found[claim] == CheckOutcome.PASS, claim
    assert found["Noise explains more than sharpness"] == CheckOutcome.NOT_TESTED


def test_another_definition_ranks_first() -> None:
    checks = list_checks(analyse(table(grid(bell, scatter=0.004, one_minus_momentum=0.0)), draws=60))
    (found,) = [c for c in checks if c.claim == "No definition ranks above paper"]
    assert found.outcome == CheckOutcome.FAIL
    assert found.sentence.startswith("linear ranks before paper: R² ")


def test_no_check_shows_a_second_noise_beside_the_best() -> None:
    found = analyse(table(grid(bell, scatter=0.004)), draws=60)
    assert found.judged.gate.break_noise is not None
    shown = number(found.judged.gate.break_noise)
    assert not any(f"noise {shown}" in c.sentence for c in list_checks(found))
    assert f"The test parts its lines at {shown}, which is not the best noise." in " ".join(found.sentences)


def test_each_check_is_one_sentence(designed) -> None:
    assert all(c.sentence.endswith(".") and not c.sentence.endswith("..") for c in designed)
    assert designed[-1].sentence == NO_SHARPNESS
    assert all(len(c.sentence) < 220 for c in designed)


def test_a_loss_falls_first() -> None:
    assert next(iter(outcomes(grid(bell, scatter=0.004), "merged_loss"))) == "Falls up to the best noise"


def test_a_flat_curve_fails() -> None:
    found = outcomes(sweep(flat, 40, 0))
    assert CheckOutcome.FAIL in (found["Rises up to the best noise"], found["Falls beyond it"])
    assert found["Holds without any one configuration"] == CheckOutcome.NOT_TESTED


def test_an_adaptive_sampler_tests_no_shape() -> None:
    checks = list_checks(analyse(table(sweep(hump, 40, 0, sampler="noise")), draws=30))[:5]
    assert {c.outcome for c in checks} == {CheckOutcome.NOT_TESTED}
    assert all("adaptive sampler" in c.sentence for c in checks)


def test_without_trials_nothing_is_tested() -> None:
    rows = [trial(str(i), None, outcome="diverged") for i in range(8)]
    checks = list_checks(analyse(table(rows), draws=10))
    assert {c.outcome for c in checks} == {CheckOutcome.NOT_TESTED}
    assert all(len(c.sentence) > 10 for c in checks)
