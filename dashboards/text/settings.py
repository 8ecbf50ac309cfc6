"""The *Use this* card: settings for several batch sizes, as facts to read and as code to copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.charts.axes import shorten
from sweeper.analysis.recommend import Recommendation


@dataclass(frozen=True)
class Fact:
    """A value of a setting: name, value, and what may follow it in small print."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class SettingsChoice:
    """The settings at one batch size.

    Attributes:
        batch_size: Batch size, in examples.
        facts: The other settings.
        code: The settings as Python code.
        note: Caveats, as one phrase.
        warns: Whether the note is a warning.
    """

    batch_size: int
    facts: tuple[Fact, ...]
    code: str
    note: str
    warns: bool


@dataclass(frozen=True)
class SettingsCard:
    """The settings to use.

    Attributes:
        choices: One per batch size, ascending; at least one.
        chosen: Position of the choice to show first.
        expected: The expected score, as one phrase.
    """

    choices: tuple[SettingsChoice, ...]
    chosen: int
    expected: str = ""


def make_settings_card(
    recommendations: Sequence[Recommendation], best: Mapping[str, Any] | None, expected: str
) -> SettingsCard | None:
    """Return the card; None without recommendations.

    Args:
        recommendations: One per batch size, ascending.
        best: The winning trial; its batch size is shown first, and its optimizer is named.
        expected: The expected score at the best noise.
    """
    if not recommendations:
        return None
    optimizer = str((best or {}).get("optimizer") or "sgd")
    choices = tuple(_make_choice(r, optimizer) for r in recommendations)
    usable = [i for i, r in enumerate(recommendations) if not r.beyond_stability] or list(range(len(choices)))
    size = (best or {}).get("batch_size") or recommendations[usable[0]].batch_size
    near = min(usable, key=lambda i: abs(math.log(recommendations[i].batch_size / size)))
    return SettingsCard(choices, near, expected)


def _make_choice(r: Recommendation, optimizer: str) -> SettingsChoice:
    upper = "▲" if r.high_beyond_stability else ""
    span = f"{shorten(r.learning_rate_low)} to {shorten(r.learning_rate_high)}{upper}"
    facts = [
        Fact("learning rate", shorten(r.learning_rate), span),
        Fact("momentum", shorten(r.momentum)),
        Fact("weight decay", shorten(r.weight_decay)),
        Fact("noise", shorten(r.noise)),
    ]
    warns = r.beyond_stability or r.high_beyond_stability or bool(r.outside_tried)
    return SettingsChoice(r.batch_size, tuple(facts), _write_code(r, optimizer), r.note, warns)


def _write_code(r: Recommendation, optimizer: str) -> str:
    rate, momentum, decay = (f"{v:.4g}" for v in (r.learning_rate, r.momentum, r.weight_decay))
    if optimizer == "sgd":
        made = f"torch.optim.SGD(model.parameters(), lr={rate}, momentum={momentum}, weight_decay={decay})"
    elif optimizer == "adamw":
        made = f"torch.optim.AdamW(model.parameters(), lr={rate}, weight_decay={decay})"
    else:
        made = f"dict(lr={rate}, momentum={momentum}, weight_decay={decay})  # {optimizer}"
    return f"batch_size = {r.batch_size}\noptimizer = {made}"
