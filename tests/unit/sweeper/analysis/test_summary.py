"""The record of a sweep: counts, cost, best noise, and the winner by the posterior's rule."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeper.analysis import best
from sweeper.analysis.best import rank_trials
from sweeper.analysis.evidence.analyse import find_analysis
from sweeper.analysis.evidence.needs import Need
from sweeper.analysis.evidence.plan import plan_needs
from sweeper.analysis.posterior import Favourite, Posterior
from sweeper.analysis.recommend import find_best
from sweeper.analysis.scorecard.badge import summarize_verdict
from sweeper.analysis.settings.advice import advise_settings
from sweeper.analysis.summary import advise, count_sweep, record_sweep, summarize_sweep
from sweeper.analysis.text import format_best
from sweeper.cli.main import main
from sweeper.config.space import load_space
from sweeper.config.spec import SweepSpec
from sweeper.storage.run_folder import stored_spec
from tests.support.inline_sweeps import PLAIN
from tests.support.inline_sweeps import sweep as run_inline
from tests.support.trial_rows import hump, sweep, table, trial

SPEC = SweepSpec(space="synthetic", objective="gain_mean", repeats=2)
LUCKY = [trial("lucky", 0.09, number=0)] + [trial("steady", 0.06, repeat=i, number=1) for i in range(2)]


def test_the_record_names_the_posteriors_winner_with_both_means() -> None:
    posterior = Posterior(favourite=Favourite("steady", 0.058, 0.004))
    best = record_sweep(SPEC, table(LUCKY), 3, posterior=posterior).best
    assert best is not None
    assert (best.config, best.value, best.repeats) == ("steady", pytest.approx(0.06), 2)
    assert (best.posterior_mean, best.posterior_sd, best.undecided) == (0.058, 0.004, "")


def test_without_a_favourite_the_observed_mean_chooses_and_the_reason_is_given() -> None:
    best = record_sweep(SPEC, table(LUCKY), 3).best
    assert best is not None
    assert (best.config, best.posterior_mean) == ("lucky", None)
    assert best.undecided == "2 configurations have a value, the model needs 6"
    assert record_sweep(SPEC, table([]), 3).best is None


def test_counts_cost_and_warnings_need_no_fit() -> None:
    rows = [*LUCKY, {**trial("gpu", 0.0, number=2, outcome="failed"), "device": "cuda:0", "device_seconds": 1800.0}]
    record = count_sweep(SPEC, table(rows), 3)
    progress = record.progress
    assert (progress.budget, progress.done, progress.failed, progress.repeats) == (3, 1, 1, 2)
    assert (progress.trials, progress.outcomes) == (4, {"ok": 3, "failed": 1})
    assert record.cost.gpu_hours == pytest.approx(0.5)
    assert (record.regime, record.best) == (None, None)


def test_the_best_noise_is_that_of_the_shown_definition() -> None:
    trials = table(sweep(hump, 40, 0))
    record = record_sweep(SPEC, trials, 40, posterior=Posterior())
    assert record.regime is not None
    assert (record.regime.noise, record.regime.objective) == ("paper", "gain_mean")
    assert record.regime.optimum is not None
    other = record_sweep(SPEC, trials, 40, "linear", Posterior()).regime
    assert other is not None
    assert other.noise == "linear"


def test_a_sweep_without_a_trial_does_not_speak_of_pairs() -> None:
    assert format_best({"best": None, "trials": 0}) == "no winner yet: no trial has finished"
    assert format_best({"best": None, "trials": 2}) == "no winner yet: no pair is viable"


def test_the_best_of_several_tasks_names_each_task() -> None:
    row = trial("c", 0.1, pair_kind="tasks", noise_paper=0.01, merged_loss_val=0.2)
    for task, accuracy in {"a": 0.9, "b": 0.8, "c": 0.7}.items():
        row |= {f"{task}_loss_test": 1 - accuracy, f"{task}_accuracy_test": accuracy}
        row |= {f"chosen_normalised_accuracy_{task}_test": 0.95}
    best = find_best(table([row]), "merged_loss", "paper", Posterior())
    assert best is not None
    assert [t["task"] for t in best["tasks"]] == ["A", "B", "C"]
    assert best["test"]["parents"]["accuracy"] == pytest.approx(0.8)
    text = format_best({"best": best, "objective": "merged_loss", "trials": 1})
    assert "kept by the chosen merge" in text
    assert "parent A" not in text
    one = find_best(table([trial("c", 0.1)]), "merged_loss", "paper", Posterior())
    assert one is not None
    assert one["tasks"] == []
    assert "parent A" in format_best({"best": one, "objective": "merged_loss", "trials": 1})


def test_best_and_recommend_give_the_same_settings_by_another_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run_inline(tmp_path, sampler="noise", objective="gain_mean", trials=40, seed=1)
    own = summarize_sweep(tmp_path, results.trials, "paper")
    assert own["answer"]["confirmed"] == 4
    spec = stored_spec(tmp_path)
    advice = advise_settings(spec, results.trials, objective="merged_loss", noise="paper").settings[0]
    other = summarize_sweep(tmp_path, results.trials, "paper", objective="merged_loss")["answer"]
    assert other["objective"] == "merged_loss"
    assert other["next"].partition(" --objective ")[2].startswith("merged_loss")
    assert (other["confirmed"] > 0) == (advice.confirmed is not None)
    if advice.confirmed:
        assert other["settings"] == pytest.approx(advice.params)
    assert summarize_sweep(tmp_path, results.trials, "paper", objective="gain_mean")["answer"] == own["answer"]
    for keeps, confirmed in ((True, 4), (False, 0)):
        monkeypatch.setattr("sweeper.analysis.settings.advice.keeps_confirmed", lambda *_, keeps=keeps: keeps)
        other = summarize_sweep(tmp_path, results.trials, "paper", objective="merged_loss")["answer"]
        assert other["confirmed"] == confirmed
        assert (other["settings"] == own["answer"]["settings"]) == keeps


def test_best_takes_an_objective(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_inline(tmp_path, sampler="random", objective="gain_mean", trials=8, **PLAIN)
    assert main(["best", str(tmp_path), "--objective", "merged_loss"]) == 0
    assert "expect:  merged validation loss" in capsys.readouterr().out
    assert main(["best", str(tmp_path), "--objective", "merged_los"]) == 2
    assert "did you mean merged_loss" in capsys.readouterr().err


def test_the_verdict_is_along_the_shown_noise(tmp_path: Path) -> None:
    results = run_inline(tmp_path, sampler="qmc", objective="gain_mean", trials=24, **PLAIN)
    for noise in ("paper", "linear"):
        record = summarize_sweep(tmp_path, results.trials, noise)
        assert record["answer"]["noise"] == noise
        analysis, doubt = find_analysis(results.trials, "gain_mean", noise)
        badge = summarize_verdict(analysis, doubt)
        assert (record["answer"]["verdict"], record["answer"]["reason"]) == (badge.word, badge.reason)


def test_the_noise_and_an_extension_keep_the_knobs_of_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = run_inline(tmp_path, sampler="random", objective="gain_mean", trials=20, seed=3, **PLAIN).trials
    luckiest, *others = rank_trials(trials, "gain_mean", 20)
    winner = next(r for r in others if r["momentum"] != luckiest["momentum"])
    believed = Posterior(favourite=Favourite(winner["config"], 0.0, 1.0))
    monkeypatch.setattr(best, "fit_posterior", lambda *_, **__: believed)
    spec = stored_spec(tmp_path)
    advice = advise(spec, trials)
    assert advice
    for each in advice.values():
        assert {r["momentum"] for r in each["recommendations"]} == {winner["momentum"]}
    said: Any = SimpleNamespace(objective="gain_mean", noise="paper", needs=(Need(1, "gap", noise=0.02),))
    (new,) = plan_needs(spec, load_space(spec), trials, said).specs
    assert (new.batch_size, new.momentum) == (winner["batch_size"], winner["momentum"])
