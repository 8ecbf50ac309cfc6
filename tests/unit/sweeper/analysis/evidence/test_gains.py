"""What is called more, no more and not detected: bounds against a known effect, words against a large p alone."""

import numpy as np
import pytest

from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.evidence.cells import collect, raise_tail
from sweeper.analysis.evidence.exponents import run_knob_test
from sweeper.analysis.evidence.gains import Finding, Gain, decide_finding, estimate_gain
from sweeper.analysis.evidence.linear import predict_left_out
from sweeper.analysis.evidence.ranking import cross_fit
from sweeper.search.objectives import OBJECTIVES
from tests.support.evidence_cells import bell, cells, grid
from tests.support.trial_rows import table

TINY, SMALL, LARGE = Gain(0.0, -0.02, 0.02), Gain(0.02, -0.01, 0.06), Gain(0.2, 0.1, 0.3)


@pytest.mark.parametrize(
    ("p", "columns", "indices", "finding"),
    [
        (0.01, TINY, [], Finding.MORE),
        (0.5, TINY, [LARGE], Finding.MORE),
        (0.5, LARGE, [], Finding.NOT_DETECTED),
        (0.99, SMALL, [], Finding.NOT_DETECTED),
        (0.5, TINY, [TINY], Finding.NO_MORE),
        (0.5, TINY, [None], Finding.NOT_DETECTED),
        (0.5, TINY, [SMALL], Finding.NOT_DETECTED),
    ],
)
def test_a_large_p_alone_is_no_absence(p: float, columns: Gain, indices, finding: Finding) -> None:
    assert decide_finding(p, columns, *indices) == finding


def test_the_interval_holds_a_known_gain_and_its_middle_has_no_bias() -> None:
    rng, found, true = np.random.default_rng(0), [], 0.1
    for _ in range(60):
        x, other = rng.uniform(-1, 1, 50), rng.normal(size=50)
        y = np.sqrt(1.5) * x + np.sqrt(true) * other + np.sqrt(0.4) * rng.normal(size=50)  # variances .5, .1, .4
        found.append(estimate_gain(*(predict_left_out(y, np.ones(50), [x], more) for more in ([], [other])), draws=300))
    assert np.mean([g.value for g in found]) == pytest.approx(true, abs=0.02)
    assert np.mean([g.low <= true <= g.high for g in found]) >= 0.85


def test_a_wrong_definition_is_never_called_sufficient() -> None:
    # the truth is η/B: along η/(B(1−μ)) knobs as lines tell nothing, an index of them does
    rows = grid(bell, scatter=0.004, one_minus_momentum=0.0)
    along = raise_tail(collect(table(rows), OBJECTIVES["gain_mean"]))
    fitted = cross_fit(along, np.array([1.0, 1.0, 1.0, 0.0]))
    wrong, right = (run_knob_test(along, noise, fitted) for noise in ("paper", "linear"))
    assert wrong.lines.value < 0.1
    assert wrong.index.low > 0.2
    assert (wrong.finding, right.finding) == (Finding.MORE, Finding.NO_MORE)
    assert run_knob_test(along, "linear").finding == Finding.NOT_DETECTED  # without exponents nothing is excluded


def test_sentences_state_the_optimum_with_interval_and_sides() -> None:
    found = analyse(table(grid(bell, scatter=0.02, repeats=1)[::4]), draws=20)
    left, text = found.leftover, " ".join(found.sentences)
    assert left.finding == Finding.NOT_DETECTED
    assert "−ln B, −ln(1−μ), ln λ do not detectably explain more than the noise: F(3, 26)" in text
    assert f"ΔR² is {left.lines.value:.3g}, between {left.lines.low:.3g}" in text
    assert "no more than" not in text


def test_few_configurations_exclude_nothing() -> None:
    rng = np.random.default_rng(0)
    x, batch = np.linspace(-2, 2, 16), rng.normal(size=16)
    few = cells(x, np.exp(-x * x) + 0.2 * rng.normal(size=16), factors={"learning_rate": x, "batch_size": batch})
    found = run_knob_test(few, "paper", cross_fit(few, np.array([1.0, 1.0])))
    assert found.p > 0.05
    assert found.finding == Finding.NOT_DETECTED
