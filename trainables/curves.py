"""Every merge of one pair over its grid of coefficients, scored on every split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .datasets import Data
from .evaluation import Score, barriers, gains, recalibrate, score, score_splits
from .merging import MERGES
from .result import MergeRow
from .spec import PairSpec

Key = tuple[str, float]  # (method, coefficient)
TIE = 1e-6
MIDPOINT: Key = ("linear", 0.5)


class Phase(Protocol):
    """Times a block as part of a phase."""

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """Return the context manager of phase `name`."""
        ...


@dataclass(frozen=True)
class MergeCurves:
    """The scored merges of a pair.

    Attributes:
        scores: (method, coefficient) -> split -> score, after BatchNorm re-estimation.
        raw: The same before it, on validation and test; empty for models without BatchNorm.
        ensemble: Split -> score of the mean of the parents' logits, an upper reference.
        chosen: The merge with the lowest validation loss, all methods and coefficients considered.
        weights: Its weights.
    """

    scores: Mapping[Key, Mapping[str, Score]]
    raw: Mapping[Key, Mapping[str, Score]]
    ensemble: Mapping[str, Score]
    chosen: Key
    weights: Mapping[str, Tensor]

    @property
    def parents(self) -> tuple[Mapping[str, Score], Mapping[str, Score]]:
        """Scores of A and B; they pass the same pipeline as the merges."""
        return self.scores["linear", 0.0], self.scores["linear", 1.0]

    def columns(self) -> dict[str, float]:
        """Return every column of `trainables.result.SCORES`."""
        a, b = self.parents
        scored = {"a": a, "b": b, "merged": self.scores[MIDPOINT], "chosen": self.scores[self.chosen]}
        out: dict[str, float] = {}
        for who, splits in {**scored, "ensemble": self.ensemble}.items():
            for split, value in splits.items():
                out[f"{who}_loss_{split}"] = value.loss
                out[f"{who}_accuracy_{split}"] = value.accuracy
        line = {alpha: s for (method, alpha), s in self.scores.items() if method == "linear"}
        return out | gains(a, b, self.scores[MIDPOINT]) | barriers(line)

    def rows(self, spec: PairSpec) -> Iterator[MergeRow]:
        """Yield the rows of the merges table."""
        for key, splits in self.scores.items():
            raw = self.raw.get(key, {})
            yield MergeRow(
                digest=spec.digest,
                config=spec.config,
                method=key[0],
                coefficient=key[1],
                **{f"loss_{s}": _finite(v.loss) for s, v in splits.items()},
                **{f"accuracy_{s}": v.accuracy for s, v in splits.items()},
                **{f"raw_loss_{s}": _finite(raw[s].loss) if raw else None for s in ("val", "test")},
                **{f"raw_accuracy_{s}": raw[s].accuracy if raw else None for s in ("val", "test")},
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score_merges(
    spec: PairSpec,
    model: nn.Module,
    data: Data,
    weights: tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]],
    batches: Sequence[Tensor],
    phase: Phase,
) -> MergeCurves:
    """Merge a pair by every method and coefficient and score each merge.

    Args:
        spec: Its `merges` are evaluated.
        model: Module of the architecture; its weights are overwritten.
        data: Data set.
        weights: State dicts (base, a, b).
        batches: Augmented training batches for the BatchNorm re-estimation; empty for models without BatchNorm.
        phase: Times the phases `recalibrate` and `evaluate`.
    """
    scores: dict[Key, dict[str, Score]] = {}
    raw: dict[Key, dict[str, Score]] = {}
    ends: dict[float, dict[str, Tensor]] = {}
    chosen: tuple[Key, Mapping[str, Tensor]] | None = None
    for method in spec.merges:
        for coefficient in MERGES[method].grid:
            key = (method, coefficient)
            merged = MERGES[method](weights[0], weights[1:], coefficient)
            if batches:
                with phase("evaluate"):
                    raw[key], _ = score_splits(model, merged, data, ("val", "test"))
                with phase("recalibrate"):
                    merged = recalibrate(model, merged, batches)
            with phase("evaluate"):
                scores[key], logits = score_splits(model, merged, data)
            if method == "linear" and coefficient in (0.0, 1.0):
                ends[coefficient] = logits
            # linear at 1/2 and task arithmetic at 1/2 are one model: rounding must not choose between them
            if chosen is None or scores[key]["val"].loss < scores[chosen[0]]["val"].loss * (1 - TIE):
                chosen = (key, merged)
    assert chosen is not None  # PairSpec demands the linear merge
    ensemble = {s: score((ends[0.0][s] + ends[1.0][s]) / 2, data.y[s]) for s in ends[0.0]}
    return MergeCurves(scores, raw, ensemble, *chosen)
