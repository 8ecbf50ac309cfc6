"""The *Use this* card: settings for several batch sizes, as facts to read and as code to copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashboards.charts.axes import shorten
from sweeper.analysis.recommend import Recommendation
from sweeper.analysis.settings.settings import MEANING, Estimate, Settings, format_estimate, render
from sweeper.formatting import name_knob, pluralize
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS

if TYPE_CHECKING:
    from sweeper.analysis.regime import Regime

_NAMES = {"augmentation_strength": "augmentation"}


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
        note: Caveats, as sentences or one phrase.
        warns: Whether the note is a warning.
        expected: What to expect of them, as a sentence.
        label: Name of the choice.
    """

    batch_size: int
    facts: tuple[Fact, ...]
    code: str
    note: str
    warns: bool
    expected: str = ""
    label: str = ""


@dataclass(frozen=True)
class SettingsCard:
    """The settings to use.

    Attributes:
        choices: One per batch size, ascending; at least one.
        chosen: Position of the choice to show first.
        notes: Sentences on all choices.
    """

    choices: tuple[SettingsChoice, ...]
    chosen: int
    notes: tuple[str, ...] = ()


PREDICTIONS = "Predictions are of validation scores: do not compare them with confirmed scores, which are of test."


def make_settings_card(found: Sequence[Settings], fit: Regime | None = None) -> SettingsCard | None:
    """Return the card of whole settings: the first one is shown, the others follow by batch size; None without any.

    Args:
        found: The settings.
        fit: The fit whose interval of the best noise the page shows.
    """
    if not found:
        return None
    sizes = {s.spec.batch_size: s for s in reversed(found)}
    choices = [_make_whole_choice(s, s is found[0] and not s.fixed, fit) for _, s in sorted(sizes.items())]
    predicts = any(s.confirmed is None and s.split == "val" for s in sizes.values())
    notes = (f"{PREDICTIONS} {MEANING}",) if predicts else (MEANING,)
    return SettingsCard(tuple(choices), sorted(sizes).index(found[0].spec.batch_size), notes)


def _place_noise(s: Settings, fit: Regime | None) -> str:
    """Return where the noise of the settings lies beside the interval of the best noise; empty if unknown."""
    if s.noise is None or fit is None or fit.noise != s.noise_name or fit.low is None or fit.high is None:
        return ""
    low, high = shorten(fit.low), shorten(fit.high)
    inside = fit.low <= s.noise <= fit.high or shorten(s.noise) in (low, high)
    return f"{'within' if inside else 'outside'} the verdict's {low} to {high}"


def _make_whole_choice(s: Settings, best: bool, fit: Regime | None) -> SettingsChoice:
    facts: list[Fact] = []
    for name, value in s.params.items():
        if name == "batch_size":
            continue
        span = ""
        if name == "learning_rate" and s.learning_rate_low is not None and s.learning_rate_high is not None:
            span = f"{shorten(s.learning_rate_low)} to {shorten(s.learning_rate_high)}"
        facts.append(
            Fact(
                _NAMES.get(name) or name_knob(name).name,
                shorten(value) if isinstance(value, float) else str(value),
                span,
            )
        )
    if s.noise is not None:
        facts.append(Fact("noise of these", shorten(s.noise), _place_noise(s, fit)))
    note = " ".join(f"{n[:1].upper()}{n[1:].rstrip('.')}." for n in s.notes) or "Within the tried range."
    size = s.spec.batch_size
    label = f"{size} (best)" if best else str(size)
    return SettingsChoice(size, tuple(facts), render(s, "torch").rstrip(), note, bool(s.notes), _promise(s), label)


def _promise(s: Settings) -> str:
    """Return what fresh pairs measured of settings; without any, what the model predicts."""
    scores = s.confirmed.scores if s.confirmed is not None else {s.objective: s.predicted, **s.scores}
    where = "on test" if s.confirmed is not None else f"on {SPLIT_WORDS[s.split]}, predicted"
    parts: list[str] = []
    for name, estimate in scores.items():
        label, _, unit = OBJECTIVES[name].label.partition(" [")
        value = _format_share(estimate) if "accuracy" in name else f"{format_estimate(estimate)} {unit.rstrip(']')}"
        name = label.replace("validation ", "").replace(" over the mean parent", "")
        parts.append(f"{name} {value.rstrip()} {where}")
    if s.confirmed is None:
        return f"Expect {'; '.join(parts)}."
    return f"Expect {'; '.join(parts)} (confirmed by {pluralize(s.confirmed.pairs, 'fresh pair')}; ± standard error)."


def _format_share(estimate: Estimate) -> str:
    error = "" if estimate.sd is None else f" ± {100 * estimate.sd:.1f}"
    return f"{100 * estimate.mean:.1f}{error} %"


def make_noise_card(
    recommendations: Sequence[Recommendation], best: Mapping[str, Any] | None, expected: str
) -> SettingsCard | None:
    """Return the card of settings that reach the best noise, without a model; None without recommendations.

    Args:
        recommendations: One per batch size, ascending.
        best: The winning trial; its batch size is shown first, and its optimizer is named.
        expected: The expected score at the best noise.
    """
    if not recommendations:
        return None
    optimizer = str((best or {}).get("optimizer") or "sgd")
    choices = tuple(_make_choice(r, optimizer, expected) for r in recommendations)
    usable = [i for i, r in enumerate(recommendations) if not r.beyond_stability] or list(range(len(choices)))
    size = (best or {}).get("batch_size") or recommendations[usable[0]].batch_size
    near = min(usable, key=lambda i: abs(math.log(recommendations[i].batch_size / size)))
    return SettingsCard(choices, near)


def _make_choice(r: Recommendation, optimizer: str, expected: str) -> SettingsChoice:
    upper = "▲" if r.high_beyond_stability else ""
    span = f"{shorten(r.learning_rate_low)} to {shorten(r.learning_rate_high)}{upper}"
    facts = [
        Fact("learning rate", shorten(r.learning_rate), span),
        Fact("momentum", shorten(r.momentum)),
        Fact("weight decay", shorten(r.weight_decay)),
        Fact("noise of these", shorten(r.noise)),
    ]
    warns = r.beyond_stability or r.high_beyond_stability or bool(r.outside_tried)
    code, label = _write_code(r, optimizer), str(r.batch_size)
    return SettingsChoice(r.batch_size, tuple(facts), code, r.note, warns, expected, label)


def _write_code(r: Recommendation, optimizer: str) -> str:
    rate, momentum, decay = (f"{v:.4g}" for v in (r.learning_rate, r.momentum, r.weight_decay))
    if optimizer == "sgd":
        made = f"torch.optim.SGD(model.parameters(), lr={rate}, momentum={momentum}, weight_decay={decay})"
    elif optimizer == "adamw":
        made = f"torch.optim.AdamW(model.parameters(), lr={rate}, weight_decay={decay})"
    else:
        made = f"dict(lr={rate}, momentum={momentum}, weight_decay={decay})  # {optimizer}"
    return f"batch_size = {r.batch_size}\noptimizer = {made}"
