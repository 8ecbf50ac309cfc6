"""The command that an answer advises next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from sweeper.analysis.scorecard.badge import Badge, Word
from trainables.trial import IMPORTED

_WITHOUT_WEIGHTS = ("synthetic", IMPORTED)


def find_next(badge: Badge, winner: Mapping[str, Any] | None, run: str, unfinished: bool, flags: str = "") -> str:
    """Return the command that an answer advises next.

    Args:
        badge: The verdict.
        winner: The winning row, see `sweeper.analysis.best.choose_winner`.
        run: Run folder as the user names it.
        unfinished: Whether the sweep has trials left, or none has finished.
        flags: Flags of the command, with a leading blank.
    """
    folder = shlex.quote(run)
    if unfinished:
        return f"sweeper resume {folder}"
    if winner is None:
        return f"sweeper status {folder}"
    folder += flags
    if badge.word in (Word.HUMP, Word.NO_OPTIMUM):
        if winner["trainable"] in _WITHOUT_WEIGHTS:
            return f"sweeper recommend {folder}"
        text = winner.get("tokens_per_example") is not None
        return f"sweeper best {folder} --save {'merged' if text else 'merged.safetensors'}"
    return f"sweeper extend {folder}"


def follow_save(command: str) -> str:
    """Return what to do once the weights are saved: where the command saves them, the settings are next."""
    head, saves, _ = command.partition(" --save ")
    return head.replace("sweeper best", "sweeper recommend", 1) if saves else command
