from __future__ import annotations

import math

import pytest

from trainables.merging.task_scores import barrier_columns, child_columns, gain_columns, pairs_of, share_columns
from trainables.tasks.evaluation import Score


def splits(loss: float, accuracy: float) -> dict[str, Score]:
    return {s: Score(loss + i / 10, accuracy) for i, s in enumerate(("train", "val", "test"))}


CHILDREN = [splits(0.5, 0.8), splits(0.2, 0.9), splits(0.8, 0.6)]
MERGED = [splits(0.9, 0.4), splits(0.6, 0.9), splits(1.4, 0.3)]
CHOSEN = [splits(0.6, 0.72), splits(0.3, 0.45), splits(0.9, 0.66)]


def test_shares_are_per_task_their_mean_and_their_least() -> None:
    columns = share_columns(MERGED, CHOSEN, CHILDREN)
    assert columns["merged_normalised_accuracy_val"] == pytest.approx((0.5 + 1.0 + 0.5) / 3)
    assert columns["merged_normalised_accuracy_worst_test"] == pytest.approx(0.5)
    own = [columns[f"chosen_normalised_accuracy_{t}_test"] for t in "abc"]
    assert own == pytest.approx([0.9, 0.5, 1.1])
    assert columns["chosen_normalised_accuracy_test"] == pytest.approx(2.5 / 3)
    assert "chosen_normalised_accuracy_d_test" not in columns
    assert math.isnan(share_columns(MERGED, CHOSEN, [splits(1, 0.0)] * 3)["chosen_normalised_accuracy_val"])


def test_gains_are_means_over_tasks() -> None:
    mean = {s: Score(1.0 + i / 10, 0.5) for i, s in enumerate(("train", "val", "test"))}
    chosen = {s: Score(0.6 + i / 10, 0.6) for i, s in enumerate(("train", "val", "test"))}
    columns = gain_columns(mean, chosen, CHILDREN)
    assert columns["gain_mean_loss_val"] == pytest.approx(0.5 - 1.0)
    assert columns["gain_mean_accuracy_val"] == pytest.approx(0.5 - (0.8 + 0.9 + 0.6) / 3)
    assert columns["gain_tasks_loss_test"] == pytest.approx(0.5 - 0.6)
    assert child_columns(CHILDREN)["c_loss_val"] == pytest.approx(0.9)
    assert set(child_columns(CHILDREN[:2])) == set()


def test_barriers_are_the_mean_and_the_largest_over_pairs() -> None:
    assert pairs_of(3) == [(0, 1), (0, 2), (1, 2)]
    heights = {(0, 1): 0.1, (0, 2): 0.4, (1, 2): -0.2}
    midpoints = {
        (i, j): [splits(CHILDREN[t]["train"].loss + h, CHILDREN[t]["train"].accuracy - h / 2) for t in (i, j)]
        for (i, j), h in heights.items()
    }
    columns = barrier_columns(midpoints, CHILDREN)
    assert columns["barrier_tasks_mean_loss_val"] == pytest.approx(0.1)
    assert columns["barrier_tasks_worst_loss_test"] == pytest.approx(0.4)
    assert columns["barrier_tasks_mean_error_test"] == pytest.approx(0.05)
    assert columns["barrier_tasks_worst_error_val"] == pytest.approx(0.2)
