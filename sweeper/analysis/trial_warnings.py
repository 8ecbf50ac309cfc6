"""Warnings of a sweep's trials, counted per kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sweeper.storage.schema import SEPARATOR


@dataclass(frozen=True)
class TrialWarning:
    """One kind of warning.

    Attributes:
        key: Name of the kind.
        sentence: Sentence of the first trial with it.
        trials: Number of trials with it.
    """

    key: str
    sentence: str
    trials: int


def split_warnings(text: str | None) -> Iterator[tuple[str, str]]:
    """Yield (key, sentence) per warning in a trial's column `warnings`, which reads `key: sentence | key: sentence`."""
    for part in (text or "").split(SEPARATOR):
        if part.strip():
            key, _, sentence = part.partition(": ")
            yield key.strip(), sentence.strip() or key.strip()


def count_warnings(texts: Iterable[str | None]) -> list[TrialWarning]:
    """Return the warnings of the trials, one per key, the most frequent first."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for text in texts:
        for key, sentence in dict(split_warnings(text)).items():
            first.setdefault(key, sentence)
            counts[key] = counts.get(key, 0) + 1
    return [TrialWarning(key, first[key], counts[key]) for key in sorted(first, key=lambda k: -counts[k])]


def format_lines(warnings: Iterable[TrialWarning], trials: int) -> list[str]:
    """Return one line per warning, with its number of trials."""
    return [f"{d.key} ({'all' if d.trials == trials else d.trials} of {trials} trials): {d.sentence}" for d in warnings]
