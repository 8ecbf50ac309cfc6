import json
import math
from typing import Any

import pytest

from sweeper.analysis.recommend import (
    rank_trials,
    recommend,
    stability_limit,
    summarize,
)
from sweeper.analysis.regime import Regime, fit_regime
from sweeper.analysis.text import format_recommendations, format_summary
from sweeper.formatting import pluralize
from sweeper.search.objectives import OBJECTIVES
from tests.support.trial_rows import BEST, OF_ROWS, hump, monotone, sweep, table, trial
from trainables.noise import NOISE
from trainables.result import NEVER_WINS
from trainables.spec import PairSpec


@pytest.fixture(scope="module")
def trials():
    return table(sweep(hump, 60, 0))


@pytest.fixture(scope="module")
def regime(trials) -> Regime:
    return fit_regime(trials)


# best trials


def test_the_best_has_the_best_mean_over_its_repeats() -> None:
    rows = [trial("lucky", g, repeat=i) for i, g in enumerate((0.09, 0.01))]
    rows += [trial("steady", g, repeat=i) for i, g in enumerate((0.055, 0.065))]
    best, second = rank_trials(table(rows), "gain_mean", n=5)
    assert (best["config"], best["config_repeats"]) == ("steady", 2)
    assert best["config_mean"] == pytest.approx(0.06)
    assert best["digest"] == "steady-1"
    assert (second["config"], second["digest"]) == ("lucky", "lucky-0")
    assert second["config_mean"] == pytest.approx(0.05)


def test_a_minimized_objective_puts_the_lowest_first() -> None:
    rows = [trial(str(i), gain) for i, gain in enumerate((0.01, 0.05, 0.03))]
    losses = [r["merged_loss_val"] for r in rank_trials(table(rows), "merged_loss", n=2)]
    assert losses == pytest.approx([0.25, 0.27])


@pytest.mark.parametrize("outcome", sorted(NEVER_WINS))
def test_a_configuration_with_a_broken_repeat_never_wins(outcome: str) -> None:
    rows = [
        trial("a", 0.9),
        trial("a", 0.9, repeat=1, outcome=outcome),
        trial("b", 0.01),
        trial("c", 5.0, outcome=outcome),
    ]
    assert [r["config"] for r in rank_trials(table(rows), "gain_mean", n=9)] == ["b"]


def test_a_repeat_lost_by_the_machine_and_one_without_a_score_are_ignored() -> None:
    rows = [trial("a", 0.2), trial("a", None, repeat=1, outcome="failed"), trial("a", math.nan, repeat=2)]
    (best,) = rank_trials(table(rows), "gain_mean")
    assert (best["config_mean"], best["config_repeats"]) == (0.2, 1)


def test_nothing_wins_where_nothing_is_viable() -> None:
    assert rank_trials(table([]), "gain_mean") == []
    assert rank_trials(table([trial("a", None, outcome="diverged")]), "gain_mean") == []
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        rank_trials(table([]), "gain_mean", n=0)


# recommendations


@pytest.mark.parametrize("noise", OF_ROWS)
def test_what_is_recommended_has_the_best_noise(trials, noise: str) -> None:
    regime = fit_regime(trials, noise=noise)
    for r in recommend(trials, regime, batch_sizes=[8, 48, 256], momentum=0.8, weight_decay=1e-3):
        settings = {k: getattr(r, k) for k in ("batch_size", "momentum", "weight_decay")} | {"examples": 720}
        for rate, target in (
            (r.learning_rate, regime.optimum),
            (r.learning_rate_low, regime.low),
            (r.learning_rate_high, regime.high),
        ):
            assert NOISE[noise].predict({**settings, "learning_rate": rate}) == pytest.approx(target)
        assert r.noise == pytest.approx(regime.optimum)
        assert (r.momentum, r.weight_decay) == (0.8, 1e-3)


def test_the_learning_rate_follows_the_formula_of_the_paper(trials, regime: Regime) -> None:
    small, large = recommend(trials, regime, batch_sizes=[64, 16], momentum=0.9)
    assert (small.batch_size, large.batch_size) == (16, 64)
    assert small.learning_rate == pytest.approx(regime.optimum * 16 * 0.1)
    assert large.learning_rate == pytest.approx(4 * small.learning_rate)


def test_defaults_span_what_was_tried_and_twice_that_at_the_best_trial(trials, regime: Regime) -> None:
    found = recommend(trials, regime)
    assert [r.batch_size for r in found] == [8, 16, 32, 64, 128, 256]
    (best,) = rank_trials(trials, "gain_mean")
    assert {(r.momentum, r.weight_decay) for r in found} == {(best["momentum"], best["weight_decay"])}
    assert [r.batch_size for r in found if "batch_size" in r.outside_tried] == [256]
    assert "batch size outside the tried range (8 to 128)" in found[-1].note


def test_a_wide_range_of_batch_sizes_is_thinned(regime: Regime) -> None:
    rows = [*sweep(hump, 20, 0), trial("one", 0.0, batch_size=1), trial("many", 0.0, batch_size=5000)]
    sizes = [r.batch_size for r in recommend(table(rows), regime)]
    assert sizes == [1, 4, 16, 64, 256, 1024, 4096, 16384]


def test_a_given_learning_rate_is_kept_and_the_batch_size_solved(trials, regime: Regime) -> None:
    (r,) = recommend(trials, regime, learning_rate=0.05, momentum=0.9)
    exact = 0.05 / (0.1 * regime.optimum)
    assert r.learning_rate == 0.05
    assert r.batch_size == round(exact)
    assert r.noise == pytest.approx(regime.optimum * exact / r.batch_size)
    assert r.learning_rate_low == pytest.approx(regime.low * r.batch_size * 0.1)


def test_knobs_outside_the_viable_trials_are_named(trials, regime: Regime) -> None:
    (r,) = recommend(trials, regime, batch_sizes=[32], momentum=0.99, weight_decay=0.5)
    assert r.outside_tried == ("momentum", "weight_decay")
    (inside,) = recommend(trials, regime, batch_sizes=[32], momentum=0.9, weight_decay=1e-4)
    assert (inside.outside_tried, inside.note) == ((), "within the tried range")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_sizes": [0]}, r"batch_size must be a whole number >= 1, got 0"),
        ({"batch_sizes": [2.5]}, r"batch_size must be a whole number >= 1, got 2.5"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\), got -0.1"),
        ({"weight_decay": -1.0}, r"weight_decay must be >= 0, got -1.0"),
        ({"learning_rate": 0.0}, r"learning_rate must be > 0, got 0.0"),
        ({"learning_rate": 1e-9, "momentum": 0.0}, r"needs a batch size of .*; give a larger learning_rate"),
        ({"learning_rate": 0.1, "batch_sizes": [8]}, r"batch_sizes or learning_rate, not both"),
    ],
)
def test_bad_values_are_refused_with_rule_and_value(trials, regime: Regime, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recommend(trials, regime, **arguments)


def test_definitions_without_a_solution_say_so(trials) -> None:
    intrinsic = fit_regime(trials, noise="wd_intrinsic")
    with pytest.raises(ValueError, match="weight_decay must be > 0 for noise 'wd_intrinsic'"):
        recommend(trials, intrinsic, weight_decay=0.0)
    with pytest.raises(ValueError, match="cannot be solved for 'batch_size'"):
        recommend(trials, intrinsic, learning_rate=0.1)


def test_augmentation_and_beta1_are_the_best_trials() -> None:
    rows = [{**r, "k_aug": 1.5, "noise_paper_aug": 1.5 * r["noise_paper"]} for r in sweep(hump, 60, 0)]
    regime = fit_regime(table(rows), noise="paper_aug")
    plain = fit_regime(table(rows))
    assert regime.optimum == pytest.approx(1.5 * (plain.optimum or 0), rel=1e-6)
    (found,) = recommend(table(rows), regime, batch_sizes=[64], momentum=0.9)
    (same,) = recommend(table(rows), plain, batch_sizes=[64], momentum=0.9)
    assert found.learning_rate == pytest.approx(same.learning_rate, rel=1e-6)
    bare = table([{**r, "k_aug": None} for r in rows])
    with pytest.raises(ValueError, match="noise 'paper_aug' needs k_aug, and the best trial's row has none"):
        recommend(bare, regime, batch_sizes=[64])
    spec = PairSpec("d", "m", 0.1, 8, optimizer="adamw", beta1=0.5).to_json()
    rows = [{**r, "spec": spec, "noise_adamw_angular": r["noise_paper"]} for r in rows]
    angular = fit_regime(table(rows), noise="adamw_angular")
    (found,) = recommend(table(rows), angular, batch_sizes=[64], weight_decay=0.1)
    settings = {"learning_rate": found.learning_rate, "weight_decay": 0.1, "beta1": 0.5}
    assert NOISE["adamw_angular"].predict(settings) == pytest.approx(angular.optimum)


def test_a_measured_noise_is_placed_at_the_repeats_mean_and_gives_no_recommendation() -> None:
    rows: list[dict[str, Any]] = []
    for i, row in enumerate(sweep(hump, 40, 1)):
        for repeat, factor in enumerate((0.5, 2.0)):
            level = 7.0 * factor * row["noise_paper"] if i else None
            rows.append({**row, "digest": f"{i}-{repeat}", "repeat": repeat, "noise_paper_full": level})
    regime = fit_regime(table(rows), noise="paper_full")
    assert (regime.n_configs, regime.n_trials) == (39, 78)
    assert BEST * 7 / 2 < (regime.optimum or 0) < BEST * 7 * 2
    with pytest.raises(
        ValueError, match="noise 'paper_full' is measured, so no formula gives its hyperparameters before training"
    ):
        recommend(table(rows), regime)
    with pytest.raises(ValueError, match="noise 'fitted' has no column"):
        fit_regime(table(rows), noise="fitted")


def test_without_an_optimum_it_says_what_is_missing() -> None:
    few = table(sweep(hump, 3, 0))
    with pytest.raises(ValueError, match=r"3 viable configurations .* the fit needs 6"):
        recommend(few, fit_regime(few))


def test_without_a_sound_configuration_it_asks_for_the_knobs(regime: Regime) -> None:
    rows = sweep(hump, 10, 0)
    broken = table(rows + [{**r, "repeat": 1, "outcome": "diverged"} for r in rows])
    with pytest.raises(ValueError, match="give momentum and weight_decay"):
        recommend(broken, regime)
    (r,) = recommend(broken, regime, batch_sizes=[32], momentum=0.9, weight_decay=0.0)
    assert r.momentum == 0.9


# the stability limit


def at_step(config: str, step: float, *, noise: float = BEST, **more):
    """A trial with this η/(1−μ) and this noise: the batch size follows."""
    return trial(config, more.pop("gain", 0.03), learning_rate=step * 0.1, batch_size=step / noise, **more)


def stepped(*trials):
    return table([{**t, "batch_size": int(t["batch_size"])} for t in trials])


def test_the_limit_is_the_lowest_step_from_which_most_trials_failed(regime: Regime) -> None:
    good = [at_step(f"g{i}", s) for i, s in enumerate((0.5, 1.0, 1.5, 2.5))]
    bad = [at_step(f"b{i}", s, outcome="diverged") for i, s in enumerate((0.7, 2.0, 3.0, 4.0))]
    # .7 among good ones is bad luck; of 2.0 (one good above) and 3.0 (one failed below) the lower counts
    assert stability_limit(stepped(*good, *bad), regime) == pytest.approx(2.0)
    assert stability_limit(stepped(*good), regime) is None
    assert stability_limit(stepped(*good, at_step("x", 0.6, outcome="not_viable")), regime) is None


def test_collapsed_merges_count_as_failures_and_lost_trials_do_not(regime: Regime) -> None:
    good = [at_step(f"g{i}", s) for i, s in enumerate((0.5, 1.0))]
    shallow, deep = -0.04 * math.log(10), -0.06 * math.log(10)
    assert stability_limit(stepped(*good, at_step("x", 5.0, gain=deep)), regime) == pytest.approx(5.0)
    assert stability_limit(stepped(*good, at_step("x", 5.0, gain=shallow)), regime) is None
    for outcome in ("failed", "out_of_memory"):
        assert stability_limit(stepped(*good, at_step("x", 5.0, outcome=outcome)), regime) is None
    # Parquet parts hold the infinite loss of an overflowed merge as empty
    assert stability_limit(stepped(*good, at_step("x", 5.0, gain=None)), regime) == pytest.approx(5.0)


def test_failures_at_high_noise_are_not_blamed_on_the_step(trials, regime: Regime) -> None:
    # the sweep collapses for its noise alone, at any step
    assert sum(g < -0.2 for g in trials["gain_mean_loss_val"].to_pylist()) > 10
    assert stability_limit(trials, regime) is None


def test_beyond_the_limit_is_marked(trials, regime: Regime) -> None:
    limit = 2.0
    more = stepped(*(at_step(f"b{i}", limit * 1.02**i, outcome="diverged") for i in range(40)))
    both = table(trials.to_pylist() + more.to_pylist())
    below, above = recommend(both, regime, batch_sizes=[32, 1024], momentum=0.9)
    assert (below.beyond_stability, above.beyond_stability) == (False, True)
    assert above.learning_rate / 0.1 > limit
    assert "most trials at 2 or above failed; use a smaller batch size" in above.note
    assert "most trials" not in below.note


# summary and text


def test_the_summary_holds_what_the_table_says() -> None:
    rows = sweep(hump, 30, 0)
    rows.append(trial("winner", 0.2, repeat=3, learning_rate=0.02, chosen_merge="linear", chosen_coefficient=0.5))
    rows += [trial("d", None, outcome="diverged"), trial("e", None, outcome="failed")]
    record = summarize(table(rows), "merged_loss", "paper")
    assert record["counts"] == {"ok": 31, "diverged": 1, "failed": 1}
    assert (record["trials"], record["configs"], record["synthetic"]) == (33, 33, False)
    assert record["device_seconds"] == pytest.approx(33 * 0.5)
    assert (record["best"]["digest"], record["best"]["config_repeats"]) == ("winner-3", 1)
    assert record["best"]["config_mean"] == pytest.approx(0.1)
    assert record["best"]["noise"] == pytest.approx(0.02 / (32 * 0.1))
    test = record["best"]["test"]
    assert test["merged"] == {"loss": pytest.approx(0.1), "accuracy": pytest.approx(0.9)}
    assert test["parents"] == {"loss": pytest.approx(0.3), "accuracy": pytest.approx(0.7)}
    assert set(record["regimes"]) == {"gain_mean", "merged_loss"}
    fitted = fit_regime(table(rows), "gain_mean")
    assert record["regimes"]["gain_mean"]["optimum"] == fitted.optimum
    assert "grid" not in record["regimes"]["gain_mean"]


def test_a_closed_form_is_named() -> None:
    record = summarize(table([trial("a", 0.1, trainable="synthetic")]))
    assert record["synthetic"]
    assert "no network was trained" in format_summary(record)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("n", [0, 1, 4, 30])
def test_every_summary_is_json_and_fits_the_terminal(objective: str, n: int) -> None:
    rows = [{**r, OBJECTIVES[objective].column: 0.1 + i / 100} for i, r in enumerate(sweep(monotone, n, 0))]
    record = summarize(table([*rows, trial("x", None, outcome="diverged")]), objective)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    text = format_summary(record)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert pluralize(n + 1, "trial") in text
    assert "gain_mean" in text
    assert "merged_loss" in text


def test_an_adaptive_search_speaks_for_itself_alone() -> None:
    for sampler, words in (("noise", "  yes, in this search  "), ("random", "  yes  ")):
        text = format_summary(summarize(table(sweep(hump, 60, 0, sampler=sampler))))
        line = next(v for v in text.splitlines() if v.startswith("  gain_mean "))
        assert words in line
        assert max(len(v) for v in text.splitlines()) <= 100


@pytest.mark.parametrize(
    ("method", "coefficient", "words"),
    [
        ("linear", 0.0, "parent A (no merge)"),
        ("linear", 1.0, "parent B (no merge)"),
        ("task_arithmetic", 0.0, "the base (no merge)"),
        ("task_arithmetic", 1.0, "task arithmetic at 1"),
        ("linear", 0.4, "linear at 0.4"),
    ],
)
def test_a_choice_that_is_no_merge_is_called_so(method: str, coefficient: float, words: str) -> None:
    row = trial("a", 0.1, chosen_merge=method, chosen_coefficient=coefficient)
    assert format_summary(summarize(table([row]))).splitlines()[-1] == f"  chosen on validation: {words}"


def test_the_text_gives_three_significant_digits() -> None:
    text = format_summary(summarize(table([trial("a", 0.123456, learning_rate=0.0123456)])))
    assert "0.0123," in text
    assert "chosen by the observed mean, 0.123 over 1 repeat\n" in text
    assert "82.3 %" in text
    assert "0.12345" not in text


def test_the_table_marks_what_is_outside_and_beyond(trials, regime: Regime) -> None:
    more = stepped(*(at_step(f"b{i}", 2.0 * 1.02**i, outcome="diverged") for i in range(40)))
    both = table(trials.to_pylist() + more.to_pylist())
    lines = format_recommendations(recommend(both, regime, batch_sizes=[32, 4096], momentum=0.9)).splitlines()
    assert " ".join(lines[0].split()) == "batch size learning rate interval momentum weight decay noise"
    assert lines[1].split()[0] == "32"
    assert "!" not in lines[1]
    assert lines[2].startswith("4096*")
    assert lines[2].endswith("!")
    assert lines[3] == "* outside the range of the viable trials"
    assert lines[4].startswith("! beyond the observed stability limit")
    assert max(map(len, lines)) <= 100
    plain = format_recommendations(recommend(trials, regime, batch_sizes=[32], momentum=0.9))
    assert len(plain.splitlines()) == 2
