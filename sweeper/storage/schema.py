"""Schemas of the stored tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute

from sweeper.errors import SpecError
from trainables.result import (
    SCHEMA_VERSION,
    Column,
    HistoryRow,
    MergeRow,
    PlaneRow,
    RungRow,
    col,
    columns_of,
    trial_columns,
)

QUOTING = ("outcome_detail", "warnings")
"""Columns of the trials table with messages of the machine on which a trial ran."""

SEPARATOR = " | "
"""Separator of the warnings of one trial in the column `warnings`."""


def with_messages(trials: pa.Table, change: Callable[[str], str]) -> pa.Table:
    """Return trials with changed messages.

    Args:
        trials: The trials table, with all or some of its columns.
        change: Message -> its replacement.
    """
    import pyarrow as pa

    for name in QUOTING:
        index = trials.column_names.index(name) if name in trials.column_names else -1
        if index < 0:
            continue
        changed = {text: change(text) for text in trials.column(index).unique().to_pylist() if text}
        if any(text != old for old, text in changed.items()):
            field = trials.schema.field(index)
            texts = [changed.get(text, text) for text in trials.column(index).to_pylist()]
            trials = trials.set_column(index, field, pa.array(texts, field.type))
    return trials


@dataclass(frozen=True)
class SearchRow:
    """State of the sampler when it proposed a configuration."""

    number: int = col("position of the configuration in its sweep")
    config: str = col("configuration")
    params: str = col("knobs as JSON")
    sampler: str = col("sampler")
    origin: str | None = col(
        "how the candidate came about: startup, level_set, filling, neighbour (a refined one has its ancestor's), "
        "repeat (of a finished configuration), enqueued (by the user); pilot, map; leader (a finished configuration), "
        "settings (recommended by the model) and winner in the stage confirm"
    )
    noise_target: float | None = col("noise of the proposal, of the sweep's definition")
    optimum: float | None = col("the sampler's estimate then: the noise at which the trials' smoothed loss was lowest")
    optimum_low: float | None = col("lower end of its 90 % interval over resamples of the trials so far")
    optimum_high: float | None = col("upper end of that interval")
    exponents: str | None = col("fitted exponents of the noise as JSON")
    seconds_ask: float = col("time the sampler took", "s")
    variance_share: float | None = col("share of the explained variance that noise alone explains", "1", default=None)
    stage: str | None = col("stage of the sweep, as in `trials`", default=None)


_ARROW = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}


MANY = "imported"
"""Name of a part with all trials of an imported table."""


GONE = "went away"


ROUNDS = 3


META, VERSION = b"sweeper.table", b"sweeper.schema_version"


class NewerSchema(SpecError):  # noqa: N818  (`raise NewerSchema` reads well)
    """A newer version of this package wrote a part, which must not be skipped silently."""

    def __init__(self, path: str, version: int) -> None:
        super().__init__(
            f"a newer sweeper wrote {path} (schema {version}, this one reads up to {SCHEMA_VERSION}); upgrade sweeper"
        )


def _schema(table: str, columns: Iterable[Column]) -> pa.Schema:
    return pa.schema(
        [pa.field(c.name, _ARROW[c.kind], metadata={"unit": c.unit, "doc": c.doc}) for c in columns],
        metadata={META: table.encode(), VERSION: str(SCHEMA_VERSION).encode()},
    )


SCHEMAS: Mapping[str, pa.Schema] = {
    "trials": _schema("trials", trial_columns()),
    "merges": _schema("merges", columns_of(MergeRow)),
    "history": _schema("history", columns_of(HistoryRow)),
    "planes": _schema("planes", columns_of(PlaneRow)),
    "rungs": _schema("rungs", columns_of(RungRow)),
    "search": _schema("search", columns_of(SearchRow)),
}
