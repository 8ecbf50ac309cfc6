"""Columns of an external table, by their names in the trials table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from sweeper.errors import SpecError
from trainables.noise import NOISE
from trainables.registry import unknown
from trainables.result import MODELS_SCORED, SPLITS, trial_columns
from trainables.spec import PairSpec

REPEAT, OUTCOME = "repeat", "outcome"
ASSUMED_SPLIT = "test"
SHORT = {
    "lr": "learning_rate", "eta": "learning_rate", "bs": "batch_size", "mu": "momentum", "wd": "weight_decay",
    "acc": "accuracy",
}  # fmt: skip
"""Short name -> name in the trials table."""

_WHO, _WHAT, _SPLIT = "|".join(MODELS_SCORED), "loss|accuracy|acc", "|".join(SPLITS)
_SCORE = re.compile(rf"(?:({_WHO})_({_WHAT})|({_WHAT})_({_WHO}))(?:_({_SPLIT}))?")
_GAIN = re.compile(rf"(gain_(?:mean|best)_(?:loss|accuracy))(?:_({_SPLIT}))?")

# not `steps`: in the trials table it is a result, which also depends on epochs
FIELDS: Mapping[str, str] = {
    f.name: str(f.type)
    for f in fields(PairSpec)
    if f.type in ("str", "int", "float", "bool") and f.name not in ("repeat", "stack", "source", "trainable", "steps")
}
"""Fields of the trial that a column can hold -> their type."""

_OURS = {
    "digest", "config", "outcome_detail", "trainable", "spec", "schema_version", "number", "sweep_seed", "space",
    "sampler", "noise_target", "stage", "version", "commit", "precision", "wd_relaxation",
    *(f"noise_{name}" for name, scale in NOISE.items() if scale.kind == "predicted"),
}  # fmt: skip
RESULTS: Mapping[str, str] = {c.name: c.kind for c in trial_columns() if c.name not in FIELDS and c.name not in _OURS}
"""Other columns of the trials table that are copied -> their kind; the rest is computed."""


@dataclass(frozen=True)
class Mapped:
    """Mapping from columns of a table to names in the trials table.

    Attributes:
        sources: Name in the trials table -> column of the table.
        assumed: Columns of scores without a split in their name; they count as `ASSUMED_SPLIT`.
        unused: Columns that are ignored.
    """

    sources: Mapping[str, str]
    assumed: tuple[str, ...]
    unused: tuple[str, ...]


def target_of(name: str) -> tuple[str | None, bool]:
    """Return the name of a column in the trials table, None if unknown, and whether its split is assumed."""
    plain = name.strip().lower()
    plain = SHORT.get(plain, plain)
    if plain in FIELDS or plain in RESULTS:
        return plain, False
    if found := _SCORE.fullmatch(plain):
        who, what, split = found[1] or found[4], found[2] or found[3], found[5]
        return f"{who}_{SHORT.get(what, what)}_{split or ASSUMED_SPLIT}", split is None
    if found := _GAIN.fullmatch(plain):
        return f"{found[1]}_{found[2] or ASSUMED_SPLIT}", found[2] is None
    return None, False


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Return column -> name from `COLUMN=NAME,...` flags; an empty name ignores the column.

    Raises:
        SpecError: A flag has another form, or a column occurs twice.
    """
    found: dict[str, str] = {}
    for part in (p.strip() for text in texts for p in text.split(",")):
        column, equals, name = (s.strip() for s in part.partition("="))
        if not equals or not column:
            raise SpecError(f"--map needs COLUMN=NAME,..., such as lr=learning_rate, got {part!r}")
        if column in found:
            raise SpecError(f"--map names the column {column!r} twice; keep one")
        found[column] = name
    return found


def map_columns(columns: Iterable[str], asked: Mapping[str, str]) -> Mapped:
    """Return the mapping of columns: explicit entries of `asked`, else by name.

    A column `seed` distinguishes the repeats of a configuration, unless another column is the repeat.

    Raises:
        SpecError: No such column or name (the message names similar ones), or two columns for one name.
    """
    columns = list(columns)
    for column in asked:
        if column not in columns:
            raise SpecError(f"--map: {unknown('column', column, columns)}")
    found: dict[str, tuple[str | None, bool]] = {c: target_of(asked.get(c, c)) for c in columns}
    for column, name in asked.items():
        if name and found[column][0] is None:
            raise SpecError(f"--map {column}: {_unknown_name(name)}")
    targets = [name for name, _ in found.values()]
    if "seed" in targets and REPEAT not in targets:
        found = {c: (REPEAT if n == "seed" and c not in asked else n, a) for c, (n, a) in found.items()}
    sources: dict[str, str] = {}
    for column, (name, _) in found.items():
        if name in sources:
            raise SpecError(
                f"columns {sources[name]!r} and {column!r} are both {name}; leave one out, as in --map {column}="
            )
        if name is not None:
            sources[name] = column
    assumed = tuple(c for c, (name, without) in found.items() if name is not None and without)
    return Mapped(sources, assumed, tuple(c for c, (name, _) in found.items() if name is None))


def _unknown_name(name: str) -> str:
    if name in _OURS:
        return f"{name} is computed, not imported; leave the column out, as in --map COLUMN="
    return str(unknown("name", name, [*FIELDS, *RESULTS]))
