from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from trainables.merging.methods import MERGES
from trainables.merging.soups import greedy_soup


def _point(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64), "count": torch.tensor(len(values))}


class _Score:
    """Minus the squared distance to the origin, or a table of values; counts its calls."""

    def __init__(self, table: Mapping[tuple[float, ...], float] | None = None) -> None:
        self.table, self.calls = table, 0

    def __call__(self, weights: Mapping[str, Tensor]) -> float:
        self.calls += 1
        w = weights["w"].tolist()
        return -sum(v * v for v in w) if self.table is None else self.table[tuple(w)]


def test_children_join_best_first_while_the_score_does_not_fall() -> None:
    # alone: -4, -1, -9, -2.25; 1 first; 3 cancels half of it; 0 would undo that; 2 pulls it back
    children, score = [_point(2.0), _point(-1.0), _point(-3.0), _point(1.5)], _Score()
    weights, chosen = greedy_soup(children, score)
    # by hand: {-1}: -1; {-1, 1.5}: -.0625 joins; {-1, 1.5, 2}: -.694 does not; {-1, 1.5, -3}: -.694 does not
    assert chosen == (1, 3)
    assert weights["w"].tolist() == [0.25]
    assert score.calls == 2 * len(children) - 1


def test_a_tie_joins() -> None:
    table = {(0.0,): 0.9, (4.0,): 0.8, (2.0,): 0.9}
    weights, chosen = greedy_soup([_point(4.0), _point(0.0)], _Score(table))
    assert chosen == (1, 0)
    assert weights["w"].tolist() == [2.0]


def test_when_all_help_it_is_the_uniform_soup() -> None:
    children = [_point(1.0, 1.0), _point(1.0, -1.0), _point(-1.0, 1.0), _point(-1.0, -1.0)]
    weights, chosen = greedy_soup(children, lambda weights: 0.0)
    assert chosen == (0, 1, 2, 3)
    assert torch.equal(weights["w"], MERGES["uniform_soup"]({**children[0]}, children, 1.0)["w"])


def test_the_best_alone_is_never_lost_and_nothing_is_shared() -> None:
    children = [_point(1.0), _point(-0.5), _point(-5.0)]
    score = _Score({(1.0,): 0.2, (-0.5,): 0.9, (-5.0,): 0.5, (-2.75,): 0.8, (0.25,): 0.1})
    weights, chosen = greedy_soup(children, score)
    assert chosen == (1,)
    weights["w"].zero_()
    assert children[1]["w"].tolist() == [-0.5]
    assert weights["count"].item() == 1


def test_a_soup_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a soup needs at least one child, got 0"):
        greedy_soup([], lambda weights: 0.0)
