import json
import math

import numpy as np
import pytest

from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.evidence.linear import R2
from sweeper.analysis.evidence.sentences import _beyond, explain_no_needs
from sweeper.analysis.regime import fit_regime
from tests.support.evidence_cells import bell, grid
from tests.support.trial_rows import BEST, hump, sweep, table, trial
from trainables.registry import UnknownName


@pytest.fixture(scope="module")
def found():
    return analyse(table(grid(bell, scatter=0.004)), draws=60)


def test_a_designed_sweep_gets_every_part(found) -> None:
    assert found.verdict == found.judged.name == "hump"
    assert (found.objective, found.noise, found.split) == ("gain_mean", "paper", "val")
    assert (found.n_trials, found.n_configs, found.n_tested) == (324, 108, 108)
    assert BEST / 1.5 < found.regime.optimum < BEST * 1.5
    assert found.ranking.rows[0].name in ("paper", "fitted")
    assert set(found.transfer.r2) == {r.name for r in found.ranking.rows}
    for part in (found.shape, found.explained, found.leftover, found.exponents, found.ranking, found.transfer):
        assert not part.reason
    assert found.explained.p > 0.05
    assert found.leftover.p > 0.05
    assert found.needs == ()


def test_the_regime_is_that_of_the_other_commands(found) -> None:
    assert found.regime == fit_regime(table(grid(bell, scatter=0.004)), draws=60)


def test_sentences_carry_the_numbers(found) -> None:
    first, *others = found.sentences
    assert first.startswith("hump: validation loss gain over the mean parent is best at η/(B(1−μ)) = 0.0")
    assert "90 % interval" in first
    assert "108 configurations, 324 trials" in first
    text = " ".join(others)
    for part in ("Two-lines test", "noise ceiling", "lack of fit", "Free exponents", R2, "Collapse"):
        assert part in text
    assert all(s.endswith(".") for s in found.sentences)


def test_of_a_loss_the_best_is_where_it_falls_before_and_rises_beyond() -> None:
    rows = [{**r, "merged_loss_val": math.exp(-10 * r["gain_mean_loss_val"])} for r in grid(bell, scatter=0.004)]
    found = analyse(table(rows), "merged_loss", draws=60)
    gate = found.judged.gate
    assert found.verdict == "hump"
    assert "It falls before and rises beyond." in found.sentences[0]
    assert f"at low noise it falls by {gate.slope_up:.3g} ± {gate.se_up:.3g} in ln (fall" in found.sentences[1]
    assert f"At high noise it rises by {-gate.slope_down:.3g} ± {gate.se_down:.3g} in ln (rise" in found.sentences[1]


def test_slopes_and_distances_have_units(found) -> None:
    gate, text = found.judged.gate, " ".join(found.sentences)
    assert f"rises by {gate.slope_up:.3g} ± {gate.se_up:.3g} nat (rise" in text
    assert "Slopes are per factor e of noise" in text
    assert f"lie {found.collapse.misfit['paper']:.3g} nat apart along paper" in text


def test_controls_are_named_in_words() -> None:
    rows = [trial(str(i), 0.01 * (i + 1), sharpness_worst_a=1.0, sharpness_worst_b=1.0) for i in range(8)]
    assert any(
        "Control for worst-case sharpness and parents' acc" in s for s in analyse(table(rows), draws=10).sentences
    )


def test_what_no_trials_would_decide_is_not_called_complete(found) -> None:
    assert explain_no_needs(found) == "this answer needs no further trials"
    nothing = analyse(table([trial(str(i), None, outcome="diverged") for i in range(8)]), draws=10)
    assert nothing.needs == ()
    assert (
        explain_no_needs(nothing) == "no viable trial has a score and this noise, so no further trials can be proposed"
    )


def test_the_record_is_json(found) -> None:
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["verdict"] == "hump"
    assert record["sentences"] == list(found.sentences)
    assert record["ranking"]["rows"][0]["name"] == found.ranking.rows[0].name
    assert record["judged"]["gate"]["p"] == found.judged.gate.p


def test_the_result_is_a_function_of_table_and_seed() -> None:
    rows = sweep(hump, 30, 0)
    a, b = (analyse(table(r), draws=20, seed=1) for r in (rows, list(reversed(rows))))
    assert a.record() == b.record()


def test_a_sweep_by_a_sampler_that_learns_asks_for_designed_noises() -> None:
    found = analyse(table(sweep(hump, 40, 0, sampler="noise")), draws=30)
    assert found.verdict == "undetermined"
    assert "the noise sampler chose these noises by results" in found.sentences[0]
    assert found.regime.optimum is not None
    assert len(found.needs) == 9
    assert all(n.noise for n in found.needs)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 viable configurations have a noise and a score"),
        ([trial(str(i), None, outcome="diverged") for i in range(8)], "8 trials do not count"),
        ([trial(str(i), 0.01 * i, learning_rate=0.1) for i in range(8)], "1 different noises, the fit needs 4"),
        (sweep(hump, 3, 0), "3 viable configurations have a noise and a score"),
    ],
    ids=["empty", "all diverged", "one noise", "few"],
)
def test_what_is_not_possible_is_said_and_no_number_given(rows, message: str) -> None:
    found = analyse(table(rows), draws=10)
    assert found.verdict == "undetermined"
    assert message in found.sentences[0]
    for part in (found.judged.gate, found.shape, found.explained, found.leftover, found.exponents, found.ranking):
        assert part.reason
        assert part.reason.strip(".").lower() in " ".join(found.sentences).lower()
    assert found.shape.p is found.explained.p is found.leftover.p is None
    json.dumps(found.record(), allow_nan=False)


def test_without_repeats_the_tests_that_need_them_say_so() -> None:
    found = analyse(table(grid(bell, scatter=0.004, repeats=1)), draws=30)
    assert found.verdict == "hump"
    text = " ".join(found.sentences)
    assert "Ceiling and lack of fit need repeats: 108 trials of 108 configurations" in text
    assert found.explained.share is None
    assert found.explained.r2 > 0.8


def test_a_table_that_only_has_test_scores_is_analysed_on_them() -> None:
    rows = [{**r, "gain_mean_loss_test": r["gain_mean_loss_val"], "gain_mean_loss_val": None} for r in
            sweep(hump, 30, 0)]  # fmt: skip
    found = analyse(table(rows), draws=20)
    assert found.split == "test"
    assert found.sentences[0].count("test loss gain")


def test_names_are_checked() -> None:
    with pytest.raises(UnknownName, match="did you mean gain_mean"):
        analyse(table([]), "gain_men")
    with pytest.raises(UnknownName, match="did you mean paper"):
        analyse(table([]), noise="papr")
    with pytest.raises(ValueError, match="split must be one of"):
        analyse(table([]), split="vall")
    with pytest.raises(ValueError, match="has no column"):
        analyse(table([]), noise="fitted")


def test_large_tables_are_thinned_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweeper.analysis.evidence import analyse as analysis

    monkeypatch.setattr(analysis, "subsample", lambda c: c.take(slice(None, None, 2)))
    found = analyse(table(grid(bell, scatter=0.004, repeats=1)), draws=10)
    assert (found.n_configs, found.n_tested) == (108, 54)
    assert "54 of 108 configurations count" in found.sentences[-1]


def test_noises_that_most_trials_lack_are_no_obstacle() -> None:
    lost = np.random.default_rng(0).permutation(108) < 60
    rows = grid(bell, scatter=0.004, repeats=1)
    rows = [{**r, "noise_paper": None} if gone else r for r, gone in zip(rows, lost, strict=True)]
    found = analyse(table(rows), draws=10)
    assert found.n_configs == 48
    assert found.explained.n_configs == 48
    assert "paper" not in {r.name for r in found.ranking.rows}
    assert math.isfinite(found.judged.gate.p)


def test_configurations_beyond_the_range_are_one_sentence() -> None:
    rest = "beyond the range of the others, whose nearest end predicts the score."
    assert _beyond(0) == ""
    assert _beyond(1) == f" 1 configuration lies {rest}"
    assert _beyond(3, "up to ") == f" Up to 3 configurations lie {rest}"
