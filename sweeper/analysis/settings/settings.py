"""Settings: values of every searched knob, with the scores that they promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.spec import PairSpec

SCORES = ("gain_mean", "merged_loss", "merged_accuracy")
"""Objectives that settings promise beside the optimised one."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its error: the posterior sd of a prediction, or the standard error of measured pairs.

    The standard error of a single pair is None.
    """

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Confirmation:
    """Fresh pairs of these settings that chose nothing.

    Attributes:
        pairs: Number of pairs.
        scores: Objective -> mean and standard error on the test split.
    """

    pairs: int
    scores: Mapping[str, Estimate]


@dataclass(frozen=True)
class Settings:
    """Recommended values of every searched knob.

    Attributes:
        params: Knob -> value, for each knob that acts. A knob that only the user fixed is among them.
        fixed: Knobs whose values the user fixed.
        objective: Name in `OBJECTIVES` of the optimised score.
        split: Split of the predicted scores: val, or test if only test was measured.
        predicted: Posterior mean and sd of the objective's expectation, in the unit of its column.
        scores: The same for the scores of `SCORES` that the trials have.
        noise: Noise of these values; None if it is not defined for them.
        noise_name: Name of its definition.
        learning_rate_low, learning_rate_high: 90 % interval of the best learning rate with these other values; None if
            the learning rate is fixed.
        step: Step size η/(1−μ).
        stability_limit: Step size from which most trials failed; None without such failures.
        outside_tried: Knobs whose values lie outside the range of the viable trials; the user fixed them there.
        at_bound: Knobs whose best value lies at an end of the tried range.
        confirmed: Fresh pairs of exactly these settings; None without any.
        notes: Caveats as sentences, each with a way out.
        spec: A trial with these values, of repeat 0.
    """

    params: dict[str, Any]
    fixed: tuple[str, ...]
    objective: str
    split: str
    predicted: Estimate
    scores: Mapping[str, Estimate]
    noise: float | None
    noise_name: str
    learning_rate_low: float | None
    learning_rate_high: float | None
    step: float
    stability_limit: float | None
    spec: PairSpec = field(repr=False)
    outside_tried: tuple[str, ...] = ()
    at_bound: tuple[str, ...] = ()
    confirmed: Confirmation | None = None
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the settings as a record for JSON, without `spec`."""
        record = {k: v for k, v in asdict(self).items() if k != "spec"}
        record["scores"] = {name: asdict(score) for name, score in self.scores.items()}
        if self.confirmed is not None:
            scores = {name: asdict(score) for name, score in self.confirmed.scores.items()}
            record["confirmed"] = {"pairs": self.confirmed.pairs, "scores": scores}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in record.items()}
