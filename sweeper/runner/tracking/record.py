"""Record of a finished trial for trackers: settings, scores and curves, from the tables of a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from search_spaces import Space
from sweeper.config.spec import SweepSpec
from sweeper.search.objectives import OBJECTIVES
from trainables.spec import PairSpec

Row = Mapping[str, Any]

_SETTINGS = (
    "number", "repeat", "stage", "proxy", "sampler", "space", "model", "dataset", "optimizer", "learning_rate",
    "batch_size", "momentum", "weight_decay", "augmentation", "augmentation_strength", "epochs", "seed",
    "chosen_merge", "device",
)  # fmt: skip
_SCORES = (
    *(f"{who}_{what}_{split}" for who in ("merged", "chosen", "ensemble", "a", "b") for what in ("loss", "accuracy")
      for split in ("val", "test")),
    *(f"gain_{parent}_loss_{split}" for parent in ("mean", "best") for split in ("val", "test")),
    "chosen_coefficient", "device_seconds",
)  # fmt: skip
_NOT_CURVES = {"digest", "member", "epoch", "step"}


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial as trackers show it.

    Attributes:
        digest: Digest of the trial.
        name: Name of the run: number of the configuration and start of the digest.
        group: Name of the sweep's run folder.
        number: Number of the configuration; 0 for a trial of an extension.
        outcome: Outcome of the trial.
        started: Start of the trial [s since 1970].
        settings: Name -> value of searched knobs and of fixed settings.
        scores: Column of the trials table -> its finite value.
        curves: Per optimizer step, in order: the step, and name -> value, such as `training_a/val_loss` of child A.
    """

    digest: str
    name: str
    group: str
    number: int
    outcome: str
    started: float
    settings: Mapping[str, bool | int | float | str]
    scores: Mapping[str, float]
    curves: tuple[tuple[int, Mapping[str, float]], ...]


def make_record(spec: SweepSpec, space: Space | None, group: str, row: Row, history: Iterable[Row]) -> TrialRecord:
    """Return the record of a trial.

    Args:
        spec: The sweep.
        space: Its space; None leaves out knobs that are no column of the trials table.
        group: Name of the sweep's run folder.
        row: Row of the trials table, with `spec`.
        history: Its rows of the history table.
    """
    knobs = space.params_of(PairSpec.from_json(row["spec"])) if space is not None else {}
    settings = {name: row[name] for name in _SETTINGS if row.get(name) is not None} | knobs
    columns = dict.fromkeys([*(OBJECTIVES[name].column for name in spec.objectives), *_SCORES, f"noise_{spec.noise}"])
    number = row.get("number")
    label = "extend" if number is None else f"{number:05d}"
    return TrialRecord(
        digest=row["digest"],
        name=f"{label}-{row['digest'][:8]}",
        group=group,
        number=number or 0,
        outcome=row["outcome"],
        started=_seconds(row["started"]),
        settings={name: _plain(value) for name, value in settings.items()},
        scores=_finite({name: row.get(name) for name in columns}),
        curves=_join_curves(history),
    )


def _seconds(started: str) -> float:
    try:
        return datetime.fromisoformat(started).timestamp()
    except ValueError:  # an imported table may hold any text
        return 0.0


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}


def _join_curves(history: Iterable[Row]) -> tuple[tuple[int, Mapping[str, float]], ...]:
    steps: dict[int, dict[str, float]] = {}
    for row in history:
        values = _finite({k: v for k, v in row.items() if k not in _NOT_CURVES})
        steps.setdefault(row["step"], {}).update({f"training_{row['member']}/{k}": v for k, v in values.items()})
    return tuple(sorted(steps.items()))
