"""What is missing for a firm answer: trials that would decide it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Need:
    """Trials that would make a test possible or its answer firm.

    Attributes:
        repeats: How many further trials.
        why: The sentence for people.
        config: Digest of the configuration to repeat; None asks for a new configuration.
        noise: Noise of the new configuration, of the definition that was analysed; None for a repeat.
    """

    repeats: int
    why: str
    config: str | None = None
    noise: float | None = None
