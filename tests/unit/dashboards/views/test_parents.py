"""Scores of the best merge beside its parents."""

from __future__ import annotations

from dashboards.views.parents import WHO, read_scores


def test_a_confirmed_winner_shows_the_means_of_its_fresh_pairs() -> None:
    scores = {f"{who}_{what}": {"mean": 0.5, "error": 0.1, "n": 3} for who in WHO for what in ("loss", "accuracy")}
    row = {f"{who}_{what}_test": 0.9 for who in WHO for what in ("loss", "accuracy")}
    row |= {"digest": "d", "config_repeats": 4, "chosen_merge": None, "chosen_coefficient": None}
    single, confirmed = read_scores(row), read_scores({**row, "confirmed": {"pairs": 3, "scores": scores}})
    assert single is not None
    assert confirmed is not None
    assert (single.pairs, single.loss["merged"]) == (0, 0.9)
    assert (confirmed.pairs, confirmed.loss["merged"], confirmed.accuracy["a"]) == (3, 0.5, 0.5)
