"""Soups of several models that depend on their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from trainables.merging.formulas import Weights, mean


def greedy_soup(
    children: Sequence[Weights], score: Callable[[Weights], float]
) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Average the children that help: best first, each stays in the soup unless it lowers the held-out score.

    Args:
        children: State dicts with the same keys and shapes.
        score: Score of weights on held-out data, higher is better, such as validation accuracy; a model with BatchNorm
            re-estimates its statistics in it. Called once per child, and once per soup tried: 2n - 1 calls.

    Returns:
        The soup's weights, and the indices of the children in it, best first.

    Raises:
        ValueError: There are no children.

    Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.
    """
    if not children:
        raise ValueError("a soup takes one child or more, got 0")
    alone = [score(c) for c in children]
    order = sorted(range(len(children)), key=lambda i: alone[i], reverse=True)
    chosen, best = order[:1], alone[order[0]]
    for i in order[1:]:
        tried = score(mean([children[j] for j in (*chosen, i)]))
        if tried >= best:
            chosen, best = [*chosen, i], tried
    return mean([children[i] for i in chosen]), tuple(chosen)
