from typing import Any

import pytest

from sweeper.analysis.best import Leaderboard, choose_winner, rank_trials
from sweeper.analysis.posterior import Favourite, Posterior
from sweeper.search.objectives import OBJECTIVES
from tests.support.trial_rows import table, trial

LUCKY = [trial("lucky", 0.09), *(trial("steady", g, repeat=i) for i, g in enumerate((0.05, 0.07)))]


def test_the_winner_is_the_favourite_of_the_model_and_the_luckiest_stands_beside_it() -> None:
    found = choose_winner(table(LUCKY), "gain_mean", Posterior(favourite=Favourite("steady", 0.058, 0.004)))
    assert found is not None
    assert (found["config"], found["digest"], found["config_repeats"]) == ("steady", "steady-1", 2)
    assert found["config_mean"] == pytest.approx(0.06)
    assert (found["posterior_mean"], found["posterior_sd"]) == (0.058, 0.004)
    assert found["luckiest"] == {"digest": "lucky-0", "config_mean": 0.09, "config_repeats": 1}
    assert rank_trials(table(LUCKY), "gain_mean")[0]["config"] == "lucky"


def test_a_favourite_that_is_also_the_luckiest_stands_alone() -> None:
    found = choose_winner(table(LUCKY), "gain_mean", Posterior(favourite=Favourite("lucky", 0.08, 0.01)))
    assert found is not None
    assert (found["config"], found["luckiest"]) == ("lucky", None)


@pytest.mark.parametrize(
    "believed",
    [Posterior(undecided="too few"), Posterior(favourite=Favourite("diverged", 0.1, 0.0))],
    ids=["none", "broken"],
)
def test_without_a_favourite_that_may_win_the_best_observed_mean_wins(believed: Posterior) -> None:
    rows = [*LUCKY, trial("diverged", None, outcome="diverged")]
    found = choose_winner(table(rows), "gain_mean", believed)
    assert found is not None
    assert (found["config"], found["posterior_mean"], found["posterior_sd"]) == ("lucky", None, None)
    assert (found["undecided"], found["luckiest"]) == (believed.undecided, None)


def test_what_is_over_its_limits_never_wins() -> None:
    believed = Posterior(favourite=Favourite("lucky", 0.08, 0.01))
    found = choose_winner(table(LUCKY), "gain_mean", believed, {"lucky"})
    assert found is not None
    assert found["config"] == "steady"
    assert choose_winner(table(LUCKY), "gain_mean", believed, {"lucky", "steady"}) is None
    assert [r["config"] for r in rank_trials(table(LUCKY), "gain_mean", 9, {"steady"})] == ["lucky"]


def test_the_leaderboard_takes_trials_one_by_one() -> None:
    board = Leaderboard(OBJECTIVES["gain_mean"])

    def row(config: str, digest: str, gain: float | None, outcome: str = "ok") -> dict[str, Any]:
        return {"config": config, "digest": digest, "gain_mean_loss_val": gain, "outcome": outcome}

    for one in (
        row("a", "a0", 0.1),
        row("b", "b0", 0.5),
        row("c", "c0", 0.2),
        row("d", "d0", 0.3),
        row("e", "e0", 0.9),
    ):
        board.add(one)
    board.add(row("b", "b1", -0.4))  # mean .05: the luckiest repeat does not win
    board.add(row("e", "e1", None, "diverged"))  # a configuration with a bad repeat does not win
    board.add(row("c", "c1", 0.3))
    assert [s.digest for s in board.first(3)] == ["d0", "c1", "a0"]
    assert board.first(1)[0].mean == pytest.approx(0.3)


def test_the_earlier_trial_wins_a_tie_in_any_order() -> None:
    rows = [trial("a", 0.1, number=2), trial("b", 0.1, number=1), trial("b", 0.1, number=1, repeat=1)]
    for order in (rows, rows[::-1]):
        first = Leaderboard(OBJECTIVES["gain_mean"], order).first()
        assert [s.digest for s in first] == ["b-0", "a-0"]
