"""Confirmation: means and errors of fresh pairs, candidates that failed, the winner that stands."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.analysis.best import choose_winner
from sweeper.analysis.posterior import Posterior
from sweeper.analysis.stages.confirmation import find_confirmation
from tests.support.trial_rows import table, trial


def pair(config: str, number: int, stage: str, gain: float, test: float, **more: Any) -> dict[str, Any]:
    row = trial(config, gain, learning_rate=0.1, repeat=number, **more)
    return {**row, "number": number, "stage": stage, "gain_mean_loss_test": test}


ROWS = [
    pair("lucky", 0, "search", 0.09, 0.02),
    pair("good", 1, "search", 0.05, 0.05),
    pair("lucky", 2, "choose", 0.03, 0.03),
    pair("good", 3, "choose", 0.05, 0.05),
    pair("good", 4, "report", 0.05, 0.04),
    pair("good", 5, "report", 0.06, 0.06),
]


def test_the_reported_configuration_wins_with_its_own_pairs_on_test() -> None:
    found = find_confirmation(table(ROWS), "gain_mean")
    assert found is not None
    assert (found.config, found.pairs, found.failed) == ("good", 2, ())
    assert found.objective is not None
    assert found.objective.mean == pytest.approx(0.05)
    assert found.objective.error == pytest.approx(0.01)
    assert [(c.config, c.score and c.score.mean, c.failed) for c in found.compared] == [
        ("lucky", 0.03, False), ("good", 0.05, False)
    ]  # fmt: skip
    winner = choose_winner(table(ROWS), "gain_mean", Posterior())
    assert winner is not None
    assert winner["config"] == "good"
    assert winner["number"] == 5  # the best pair on validation of those that chose nothing
    assert winner["confirmed"]["pairs"] == 2


def test_without_a_report_the_winner_is_the_best_observed() -> None:
    rows = ROWS[:2]
    assert find_confirmation(table(rows), "gain_mean") is None
    winner = choose_winner(table(rows), "gain_mean", Posterior())
    assert winner is not None
    assert (winner["config"], winner["confirmed"]) == ("lucky", None)


def test_a_configuration_that_fails_in_the_report_is_not_the_winner() -> None:
    rows = [
        *ROWS[:4],
        pair("good", 4, "report", 0.05, 0.04, outcome="not_viable"),
        pair("lucky", 5, "report", 0.03, 0.02),
    ]
    found = find_confirmation(table(rows), "gain_mean")
    assert found is not None
    assert (found.config, found.failed, found.pairs) == ("lucky", ("good",), 1)
    assert found.objective is not None
    assert found.objective.error is None
    everything_failed = [{**r, "outcome": "diverged"} if r["stage"] == "report" else r for r in rows]
    assert find_confirmation(table(everything_failed), "gain_mean") is None


def test_a_worker_that_died_is_no_failure_of_the_settings() -> None:
    rows = [*ROWS, pair("good", 6, "report", 0.05, 0.05, outcome="failed")]
    found = find_confirmation(table(rows), "gain_mean")
    assert found is not None
    assert (found.config, found.failed, found.pairs) == ("good", (), 2)
