"""Losses of classifiers and of language models: one row of logits per label."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def by_label(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return one row of logits per label, and the labels as int64 or probabilities.

    Args:
        logits: [n, classes], or [n, context, vocabulary] of a language model.
        target: Labels [n], probabilities [n, classes], or next tokens [n, context] of any whole type.

    Returns:
        Logits [rows, classes], and labels [rows] or probabilities [rows, classes].
    """
    if target.is_floating_point():
        return logits, target
    return logits.reshape(-1, logits.shape[-1]), target.reshape(-1).long()


def mean_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy per label: nat per image, or nat per token."""
    return cross_entropy(*by_label(logits, target))
