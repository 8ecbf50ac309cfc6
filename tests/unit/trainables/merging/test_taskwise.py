from __future__ import annotations

import itertools

import torch

from tests.support.merge_formulas import FLOATING, models_of
from trainables.merging.methods import MERGES
from trainables.merging.taskwise import add_scaled, search_scales

GRID = MERGES["task_arithmetic"].grid


def test_each_task_vector_has_its_scale() -> None:
    base, children = models_of(3, torch.float64)
    scales = (0.25, 0.0, 1.5)
    merged = add_scaled(base, children, scales)
    for key in FLOATING:
        wanted = base[key] + sum(s * (c[key] - base[key]) for s, c in zip(scales, children, strict=True))
        wanted = wanted.clamp(min=0) if "running_var" in key else wanted
        torch.testing.assert_close(merged[key], wanted, rtol=0, atol=1e-14)
    assert merged["mask"].tolist() == children[0]["mask"].tolist()


def test_equal_scales_are_task_arithmetic() -> None:
    base, children = models_of(2, torch.float64)
    for s in GRID:
        one, other = add_scaled(base, children, (s, s)), MERGES["task_arithmetic"](base, children, s)
        for key in FLOATING:
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-14)


def test_the_search_finds_the_best_of_a_separable_loss() -> None:
    best = (0.25, 1.5, 0.75)

    def loss(scales: tuple[float, ...]) -> float:
        return sum((s - b) ** 2 for s, b in zip(scales, best, strict=True))

    assert search_scales(3, GRID, loss) == best
    assert min(itertools.product(GRID, repeat=3), key=loss) == best


def test_the_search_ends_where_no_single_change_helps_and_asks_for_no_scales_twice() -> None:
    asked: list[tuple[float, ...]] = []

    def loss(scales: tuple[float, ...]) -> float:
        asked.append(scales)
        return abs(scales[0] - scales[1]) + 0.1 * abs(sum(scales) - 1.5)

    assert search_scales(2, GRID, loss) == (0.75, 0.75)
    assert len(asked) == len(set(asked))


def test_a_change_that_gains_no_more_than_rounding_is_not_taken() -> None:
    assert search_scales(2, GRID, lambda s: 1.0 - 1e-9 * sum(s)) == (1.5, 1.5)
    assert search_scales(2, GRID, lambda s: 1.0 if s[0] == s[1] == 0.5 else 1.0 + 1e-9) == (0.5, 0.5)
