"""Soups of models that depend on their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from trainables.merging.formulas import Weights, mean


def greedy_soup(
    children: Sequence[Weights], score: Callable[[Weights], float]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Return the average of the children that help: best first, unless they lower the held-out score.

    Args:
        children: State dicts with the same keys and shapes.
        score: Score of weights on held-out data, higher is better, such as validation accuracy. It re-estimates the
            statistics of BatchNorm. Called once per child and once per candidate soup: 2n - 1 calls.

    Returns:
        The soup's weights, and the indices of the children in it, best first.

    Raises:
        ValueError: No children.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.
    """
    if not children:
        raise ValueError("a soup needs at least one child, got 0")
    alone = [score(c) for c in children]
    order = sorted(range(len(children)), key=lambda i: alone[i], reverse=True)
    chosen, best = order[:1], alone[order[0]]
    for i in order[1:]:
        tried = score(mean([children[j] for j in (*chosen, i)]))
        if tried >= best:
            chosen, best = [*chosen, i], tried
    return mean([children[i] for i in chosen]), tuple(chosen)
