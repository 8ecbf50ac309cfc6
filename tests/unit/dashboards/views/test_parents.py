"""Scores of the best merge beside its parents."""

from __future__ import annotations

from dashboards.views.parents import WHO, draw_scores, make_scores_table, make_tiles, read_scores


def test_every_child_of_several_tasks_is_shown() -> None:
    models = (*"abc", "merged", "chosen", "ensemble")
    row = {f"{who}_{what}_test": 0.1 * i for i, who in enumerate(models) for what in ("loss", "accuracy")}
    row |= {f"chosen_normalised_accuracy_{t}_test": 0.9 for t in "abc"}
    row |= {"digest": "d", "config_repeats": 1, "chosen_merge": "ties", "chosen_coefficient": 0.5}
    scores = read_scores(row)
    assert scores is not None
    assert list(scores.names) == ["a", "b", "c", "merged", "chosen"]
    assert make_tiles(scores)[0].context == "children 0, 0.1 and 0.2"
    rows = make_scores_table(scores).rows
    assert [cells[0].text for cells in rows] == ["merged", "child A", "child B", "child C", "children"]
    assert rows[3][0].title == "child C, on its task"
    assert "child C, on its task" in draw_scores(scores).figure.data[0].y


def test_a_confirmed_winner_shows_the_means_of_its_fresh_pairs() -> None:
    scores = {f"{who}_{what}": {"mean": 0.5, "error": 0.1, "n": 3} for who in WHO for what in ("loss", "accuracy")}
    row = {f"{who}_{what}_test": 0.9 for who in WHO for what in ("loss", "accuracy")}
    row |= {"digest": "d", "config_repeats": 4, "chosen_merge": None, "chosen_coefficient": None}
    single, confirmed = read_scores(row), read_scores({**row, "confirmed": {"pairs": 3, "scores": scores}})
    assert single is not None
    assert confirmed is not None
    assert (single.pairs, single.loss["merged"]) == (0, 0.9)
    assert (confirmed.pairs, confirmed.loss["merged"], confirmed.accuracy["a"]) == (3, 0.5, 0.5)
    # page, tiles and figure show one number, although the single trial chose a merge of its own
    chosen = read_scores(
        {**row, "chosen_merge": "ties", "chosen_coefficient": 0.5, "confirmed": {"pairs": 3, "scores": scores}}
    )
    assert chosen is not None
    assert [tile.value for tile in make_tiles(chosen)] == ["0.5", "50.0 %"]
    assert [cell.text for cell in make_scores_table(chosen).rows[0]] == ["merged", "0.5", "50.0 %"]
    chart = draw_scores(chosen)
    assert set(chart.figure.data[0].x) == {0.5}
    assert chart.caption == "Test scores, means of 3 fresh pairs that chose nothing."
