"""Badge: the verdict in one word, with its reason in one line.

- *Hump*: the verdict is *hump*.
- *No optimum*: designed noises show another shape. These are a cliff after a plateau, a curve that only rises or only
  falls, and scores of which noise explains less than 5 % (95 % upper bound).
- *Likely*: the optimum of designed noises lies inside the tried range and the scores get worse on both sides of it,
  but the verdict is not *hump*.
- *Undetermined*: all other cases, and every sweep without designed noises.

A curve only rises or falls if both of its lines do significantly. One line suffices if 90 % of the resampled optima lie
at the edge that it leads to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sweeper.analysis.evidence.gains import NEGLIGIBLE
from sweeper.analysis.evidence.verdict import CLIFF, HUMP
from sweeper.formatting import at_share, number
from sweeper.search.objectives import OBJECTIVES

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis

AT_EDGE = 0.9


class Word(StrEnum):
    """The verdict in one word."""

    HUMP = "Hump"
    LIKELY = "Likely"
    UNDETERMINED = "Undetermined"
    NO_OPTIMUM = "No optimum"


@dataclass(frozen=True)
class Badge:
    """The verdict for a reader with five seconds.

    Attributes:
        word: The verdict in one word.
        reason: Why, as a sentence without capital and full stop.
    """

    word: Word
    reason: str


def summarize_verdict(analysis: Analysis | None, doubt: str = "no viable trial has a score and a noise") -> Badge:
    """Return the badge of an analysis.

    Args:
        analysis: The analysis; None without one.
        doubt: Why there is no analysis.
    """
    if analysis is None:
        return Badge(Word.UNDETERMINED, doubt)
    label = analysis.label.partition(" [")[0] + at_share(analysis.regime.proxy)
    if analysis.verdict == HUMP:
        return Badge(Word.HUMP, f"{label} is best at {_place(analysis)} and {_worse(analysis)} on both sides")
    if not analysis.regime.adaptive and (other := _describe_other_shape(analysis, label)):
        return Badge(Word.NO_OPTIMUM, other)
    if _is_likely(analysis):
        return Badge(Word.LIKELY, f"{label} looks best at {_place(analysis)}, but {_shorten(analysis.judged.why)}")
    why, share = _explain(analysis), at_share(analysis.regime.proxy)
    return Badge(Word.UNDETERMINED, why if share in why else why + share)


def word_verdict(analysis: Analysis) -> str:
    """Return the sentence of the verdict behind the badge's word, and what the tests alone say if it differs."""
    label, _, reason = analysis.sentences[0].partition(": ")
    word = summarize_verdict(analysis).word
    return f"{word if word.lower() == label else f'{word} ({label} by the tests)'}: {reason}"


def _shorten(why: str) -> str:
    # a reader of one line has no use for a digest
    return re.sub(r"\bconfiguration [0-9a-f]{16}\b", "one configuration", why)


def _place(a: Analysis) -> str:
    return f"noise {number(a.regime.optimum)} ({number(a.regime.low)} to {number(a.regime.high)})"


def _is_likely(a: Analysis) -> bool:
    gate, regime = a.judged.gate, a.regime
    if gate.slope_up is None or gate.slope_down is None or regime.adaptive or not regime.interior:
        return False
    return gate.slope_up > 0 > gate.slope_down


def _describe_other_shape(a: Analysis, label: str) -> str:
    """Return what designed noises show instead of an optimum; empty if they show nothing else."""
    gate = a.judged.gate
    if a.verdict == CLIFF:
        return f"{label} hardly changes up to a cliff near noise {number(gate.break_noise)} and {_worse(a)} beyond it"
    if gate.p_up is not None and gate.p_down is not None and gate.p_flat is not None:
        low, high = _shares_at_edges(a)
        if gate.p_up < 0.05 and (gate.p_down > 0.95 or high >= AT_EDGE):
            return f"{label} {_better(a)} up to the highest noise with viable pairs"
        if gate.p_down < 0.05 and (gate.p_flat < 0.05 or low >= AT_EDGE):
            return f"{label} {_worse(a)} from the lowest tried noise on"
    gain = a.explained.gain
    # no gain is truly negative, so a negative estimate does not lower the bound
    if gain is not None and gain.high - min(gain.value, 0.0) < NEGLIGIBLE:
        return f"noise explains less than {100 * NEGLIGIBLE:.0f} % of the scatter of the {label}"
    return ""


def _shares_at_edges(a: Analysis) -> tuple[float, float]:
    """Return the shares of resampled optima at the lower and at the upper edge; all count where the optimum lies."""
    if a.regime.optimum is None or a.regime.edge_share is None:
        return 0.0, 0.0
    middle = (a.regime.grid[0] * a.regime.grid[-1]) ** 0.5
    return (a.regime.edge_share, 0.0) if a.regime.optimum < middle else (0.0, a.regime.edge_share)


def _explain(a: Analysis) -> str:
    regime = a.regime
    if regime.optimum is None:
        return regime.message.rstrip(".")
    if regime.adaptive or regime.interior or regime.edge_share is None:
        return _shorten(a.judged.why)
    share = f"{100 * regime.edge_share:.0f} % of the resampled optima lie at an edge of the tried noises"
    return f"the best noise is not clearly inside the tried range: {share}"


def _better(a: Analysis) -> str:
    return "rises" if OBJECTIVES[a.objective].maximize else "falls"


def _worse(a: Analysis) -> str:
    return "falls" if OBJECTIVES[a.objective].maximize else "rises"
