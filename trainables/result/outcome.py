"""Outcomes: how a trial can end."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a trial ended. Only `ok` can win; rows with other outcomes are kept too."""

    OK = "ok"
    DIVERGED = "diverged"
    NOT_VIABLE = "not_viable"
    OUT_OF_MEMORY = "out_of_memory"
    PRUNED = "pruned"
    FAILED = "failed"


OUTCOMES = {
    Outcome.OK: "The pair was trained and merged.",
    Outcome.DIVERGED: "A loss or a weight is not finite.",
    Outcome.NOT_VIABLE: "A parent's validation accuracy is below `accuracy_floor`, or its loss above `loss_ceiling`.",
    Outcome.OUT_OF_MEMORY: "The device or the machine had no memory left.",
    Outcome.PRUNED: "The trial stopped at a rung.",
    Outcome.FAILED: "An error, a lost process or a lost node; a resume tries it again.",
}
"""Outcome -> its meaning."""

UNSTABLE = frozenset({Outcome.DIVERGED, Outcome.NOT_VIABLE})
"""Outcomes of training that failed because of its hyperparameters."""
NEVER_WINS = UNSTABLE | {Outcome.OUT_OF_MEMORY, Outcome.PRUNED}
"""A configuration with one repeat of these outcomes never wins; `failed` repeats run again."""
