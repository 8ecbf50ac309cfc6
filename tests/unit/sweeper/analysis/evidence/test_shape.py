import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from sweeper.analysis.evidence.shape import (
    compare_shapes,
    fit_reduced_monotone,
    monotone_error,
    prefix_errors,
    unimodal_error,
)
from tests.support.evidence_cells import cells


def isotonic(y, w, increasing=True):
    return IsotonicRegression(increasing=increasing).fit_transform(np.arange(len(y)), y, sample_weight=w)


def error(y, w, fit) -> float:
    return float(np.sum(w * (y - fit) ** 2))


@pytest.mark.parametrize("seed", range(5))
def test_errors_of_all_prefixes_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, w = rng.normal(size=15), rng.uniform(0.2, 3.0, 15)
    expected = [0.0] + [error(y[:k], w[:k], isotonic(y[:k], w[:k])) for k in range(1, 16)]
    assert prefix_errors(y, w) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_unimodal_fit_is_the_best_over_all_tops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, w = rng.normal(size=10), rng.uniform(0.2, 3.0, 10)
    every = []
    for k in range(11):
        parts = [isotonic(y[:k], w[:k])] if k else []
        parts += [isotonic(y[k:], w[k:], False)] if k < 10 else []
        every.append(error(y, w, np.concatenate(parts)))
    assert unimodal_error(y, w)[0] == pytest.approx(min(every))
    up, down = error(y, w, isotonic(y, w)), error(y, w, isotonic(y, w, False))
    assert monotone_error(y, w) == (pytest.approx(min(up, down)), up <= down)


def test_the_top_is_where_the_curve_is_highest() -> None:
    y = np.array([0.0, 1.0, 3.0, 2.0, -1.0])
    assert unimodal_error(y, np.ones(5)) == (0.0, 2)


def test_steps_within_the_error_are_pooled_and_others_stay() -> None:
    y, w = np.array([0.0, 0.1, 0.2, 5.0, 5.1]), np.full(5, 4.0)  # errors of a mean: 1/2
    assert fit_reduced_monotone(y, w) == pytest.approx([0.1, 0.1, 0.1, 5.05, 5.05])
    assert fit_reduced_monotone(y, w, least=0.0) == pytest.approx(isotonic(y, w))


def draw(curve, seed: int, repeats: int = 6):
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, 9)
    return cells(x, curve(x)[:, None] + 0.3 * rng.normal(size=(9, repeats)))


def test_humps_are_told_from_monotone_curves() -> None:
    humps = [compare_shapes(draw(lambda x: -np.abs(x), s), "paper", draws=200).p for s in range(10)]
    monotone = [
        compare_shapes(draw(curve, s), "paper", draws=200).p for s in range(10) for curve in (np.abs, lambda x: -x)
    ]
    assert np.mean(np.array(humps) < 0.05) >= 0.9
    assert np.mean(np.array(monotone[1::2]) < 0.05) <= 0.1
    found = compare_shapes(draw(lambda x: -np.abs(x), 0), "paper")
    assert (found.n, found.levels) == (54, 9)
    assert np.log(found.mode_noise) == pytest.approx(0.0, abs=0.26)


def test_without_replicates_no_number_is_given() -> None:
    test = compare_shapes(draw(lambda x: -np.abs(x), 0, repeats=2), "paper")
    assert test.reason == "0 noises have 3 or more trials with replicates, the test needs 5"
    assert test.p is None
    same = compare_shapes(cells(np.arange(9.0), np.zeros((9, 3))), "paper")
    assert same.reason == "all replicates are equal"


def several(effect: float, seed: int, repeats: int = 3):
    """Nine noises at three decays, whose effect is added to a hump, replicates of each."""
    rng = np.random.default_rng(seed)
    x, decay = np.repeat(np.linspace(-1, 1, 9), 3), np.tile([-1.0, 0.0, 1.0], 9)
    values = (effect * decay - np.abs(x))[:, None] + 0.3 * rng.normal(size=(27, repeats))
    return cells(x, values, factors={"learning_rate": x, "weight_decay": decay})


def test_what_other_knobs_do_at_a_noise_is_no_scatter() -> None:
    plain, moved = (
        compare_shapes(several(0.0, 0), "paper", draws=200),
        compare_shapes(several(5.0, 0), "paper", draws=200),
    )
    assert plain.n == moved.n == 81
    assert moved.p == plain.p < 0.05
    single = compare_shapes(several(0.0, 0, repeats=1), "paper")
    assert "0 noises have 3 or more trials with replicates" in single.reason
