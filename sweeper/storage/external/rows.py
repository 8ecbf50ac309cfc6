"""Rows of the trials table from an external table: computed where possible, else empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search_spaces import Space
from sweeper.errors import SpecError
from sweeper.formatting import exact_text
from sweeper.storage.external.columns import ASSUMED_SPLIT, OUTCOME, REPEAT, RESULTS
from trainables.noise import NOISE
from trainables.result import SPLITS, Outcome
from trainables.runtime import Runtime
from trainables.spec import PairSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """Builds the rows of the trials table.

    Attributes:
        name: Name of the table.
        space: Space with the knobs and fixed fields of the trials.
        given: Field of the trial -> its values, one per row.
        about: Column -> its value, the same for all rows.
        unknown_knobs: Knobs without a column.
    """

    name: str
    space: Space
    given: Mapping[str, Sequence[Any]]
    about: Mapping[str, Any]
    unknown_knobs: tuple[str, ...]

    def build(self, data: Mapping[str, Sequence[Any]], numbers: Sequence[int]) -> list[Row]:
        """Return one row per row of the table, with numbered configurations and repeats.

        Args:
            data: Name in the trials table -> values of the imported rows.
            numbers: Numbers of these rows in the table, from 1, for messages.
        """
        seeds = data.get("seed", [0] * len(numbers))
        specs = [self._spec(i, n, seed) for i, (n, seed) in enumerate(zip(numbers, seeds, strict=True))]
        repeats = self._repeats(specs, data, numbers)
        configs = {config: number for number, config in enumerate(dict.fromkeys(s.config for s in specs))}
        measured = {k: v for k, v in data.items() if k in RESULTS and k != REPEAT}
        split = _split(data)
        rows: list[Row] = []
        for i, (spec, repeat) in enumerate(zip(specs, repeats, strict=True)):
            own = {**self.about, **{k: v[i] for k, v in measured.items() if v[i] is not None}}
            result = self._result(replace(spec, repeat=repeat), own, split, [c for c in _losses(split) if c in data])
            rows.append({**result, "number": configs[spec.config], **dict.fromkeys(self.unknown_knobs)})
        return rows

    def _spec(self, i: int, number: int, seed: int) -> PairSpec:
        params = {k: v[i] for k, v in self.given.items() if k in self.space.knobs}
        unknown = {k: getattr(PairSpec, k) for k in self.unknown_knobs}
        try:
            return self.space.build({**unknown, **self.space.active_params(params)}, seed=seed)
        except (ValueError, TypeError) as error:
            raise SpecError(f"row {number} of {self.name}: {error}") from None

    def _repeats(
        self, specs: Sequence[PairSpec], data: Mapping[str, Sequence[Any]], numbers: Sequence[int]
    ) -> list[int]:
        marks = data.get(REPEAT)
        own: dict[str, list[tuple[Any, int]]] = {}
        for i, spec in enumerate(specs):
            # without seeds, the measurements distinguish rows
            mark = marks[i] if marks else tuple(v[i] for k, v in data.items() if k in RESULTS)
            same = next((j for m, j in own.get(spec.config, []) if m == mark), None)
            if same is not None:
                about = _told(self.space, spec) + (f", seed {mark}" if marks else "")
                raise SpecError(
                    f"rows {numbers[same]} and {numbers[i]} of {self.name} are the same trial ({about}): drop one, or "
                    "name a column that tells repeats apart by --map COLUMN=repeat"
                )
            own.setdefault(spec.config, []).append((mark, i))
        repeats = [0] * len(numbers)
        for group in own.values():
            for repeat, (_, i) in enumerate(sorted(group, key=lambda p: (str(type(p[0])), p)) if marks else group):
                repeats[i] = repeat
        return repeats

    def _result(self, spec: PairSpec, own: Mapping[str, Any], split: str, losses: Sequence[str]) -> Row:
        from trainables.pair.record import record
        from trainables.tasks.evaluation import finite

        known = finite(own)
        outcome, detail = _outcome(spec, known, split, losses)
        if OUTCOME in own:
            outcome, detail = Outcome(own[OUTCOME]), "as the table says"
        about = {k: v for k, v in known.items() if k in _PARTS and v is not None}
        result = record(spec, Runtime(device=""), outcome, f"{detail}; imported from {self.name}", "", **_whole(about))
        noises = {n: v for n, v in result.noises.items() if not (self.unknown_knobs and "k_aug" in NOISE[n].needs)}
        row = replace(result, noises=noises).to_row()
        row |= {k: v for k, v in known.items() if k != OUTCOME} | _gains(known)
        # device and times are unknown
        return {**row, **dict.fromkeys(k for k in _ELSEWHERE if k not in known)}


_PARTS = ("examples", "steps", "classes", "parameters", "trace_sigma", "b_simple", "k_aug")
_ELSEWHERE = (
    "device", "host", "threads", "ranks", "started", "torch", "python", "device_seconds",
    *(c for c in RESULTS if c.startswith("seconds_")),
)  # fmt: skip


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: int(v) if RESULTS[k] == "int" else v for k, v in values.items()}


def _split(data: Mapping[str, Sequence[Any]]) -> str:
    # the first split with a loss; columns without any still say that the pairs diverged
    known = {c for c, values in data.items() if any(v is not None for v in values)}
    for columns in (known, data):
        for split in ("val", "test", "train"):
            if any(c in columns for c in _losses(split)):
                return split
    return ASSUMED_SPLIT


def _losses(split: str) -> tuple[str, ...]:
    return tuple(f"{who}_loss_{split}" for who in ("a", "b", "merged"))


def _told(space: Space, spec: PairSpec) -> str:
    return ", ".join(f"{k} {exact_text(v)}" for k, v in space.params_of(spec).items())


def _outcome(spec: PairSpec, known: Mapping[str, Any], split: str, losses: Sequence[str]) -> tuple[Outcome, str]:
    if lost := [c for c in losses if known.get(c) is None]:
        return Outcome.DIVERGED, f"{lost[0]} is empty or not finite"
    parents = [v for who in "ab" if (v := known.get(f"{who}_accuracy_{split}")) is not None]
    if parents and min(parents) < spec.accuracy_floor:
        return Outcome.NOT_VIABLE, (
            f"a parent's {split} accuracy {min(parents):.3f} is below the floor {spec.accuracy_floor}"
        )
    high = [v for who in "ab" if (v := known.get(f"{who}_loss_{split}")) is not None]
    if spec.loss_ceiling and high and max(high) > spec.loss_ceiling:
        return Outcome.NOT_VIABLE, (
            f"a parent's {split} loss {max(high):.4g} is above the ceiling {spec.loss_ceiling:g}"
        )
    return Outcome.OK, "trained elsewhere"


def _gains(known: Mapping[str, Any]) -> dict[str, float]:
    from trainables.tasks.evaluation import Score, finite, gains

    def scores(who: str) -> dict[str, Score]:
        return {s: Score(*(_or_nan(known.get(f"{who}_{what}_{s}")) for what in ("loss", "accuracy"))) for s in SPLITS}

    computed = finite(gains(scores("a"), scores("b"), scores("merged")))
    return {name: value for name, value in computed.items() if value is not None}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
