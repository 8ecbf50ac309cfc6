import pytest

from sweeper.analysis.best import best_trials, winner
from sweeper.analysis.posterior import Favourite, Posterior
from tests.support.trial_rows import table, trial

LUCKY = [trial("lucky", 0.09), *(trial("steady", g, repeat=i) for i, g in enumerate((0.05, 0.07)))]


def test_the_winner_is_the_favourite_of_the_model_and_the_luckiest_stands_beside_it() -> None:
    found = winner(table(LUCKY), "gain_mean", Posterior(favourite=Favourite("steady", 0.058, 0.004)))
    assert found is not None
    assert (found["config"], found["digest"], found["config_repeats"]) == ("steady", "steady-1", 2)
    assert found["config_mean"] == pytest.approx(0.06)
    assert (found["posterior_mean"], found["posterior_sd"]) == (0.058, 0.004)
    assert found["luckiest"] == {"digest": "lucky-0", "config_mean": 0.09, "config_repeats": 1}
    assert best_trials(table(LUCKY), "gain_mean")[0]["config"] == "lucky"


def test_a_favourite_that_is_also_the_luckiest_stands_alone() -> None:
    found = winner(table(LUCKY), "gain_mean", Posterior(favourite=Favourite("lucky", 0.08, 0.01)))
    assert found is not None
    assert (found["config"], found["luckiest"]) == ("lucky", None)


@pytest.mark.parametrize(
    "believed",
    [Posterior(undecided="too few"), Posterior(favourite=Favourite("diverged", 0.1, 0.0))],
    ids=["none", "broken"],
)
def test_without_a_favourite_that_may_win_the_best_observed_mean_wins(believed: Posterior) -> None:
    rows = [*LUCKY, trial("diverged", None, outcome="diverged")]
    found = winner(table(rows), "gain_mean", believed)
    assert found is not None
    assert (found["config"], found["posterior_mean"], found["posterior_sd"]) == ("lucky", None, None)
    assert (found["undecided"], found["luckiest"]) == (believed.undecided, None)


def test_what_is_over_its_limits_never_wins() -> None:
    believed = Posterior(favourite=Favourite("lucky", 0.08, 0.01))
    found = winner(table(LUCKY), "gain_mean", believed, {"lucky"})
    assert found is not None
    assert found["config"] == "steady"
    assert winner(table(LUCKY), "gain_mean", believed, {"lucky", "steady"}) is None
    assert [r["config"] for r in best_trials(table(LUCKY), "gain_mean", 9, {"steady"})] == ["lucky"]
