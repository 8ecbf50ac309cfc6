"""The columns of the trials table that quote messages of the machine on which a trial ran."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("outcome_detail", "warnings")


def with_messages(trials: pa.Table, change: Callable[[str], str]) -> pa.Table:
    """Return trials whose messages are changed; columns that the table does not have are left out.

    Args:
        trials: The table, or some of its columns.
        change: Message -> its replacement.
    """
    import pyarrow as pa

    for name in COLUMNS:
        index = trials.column_names.index(name) if name in trials.column_names else -1
        if index < 0:
            continue
        said = {text: change(text) for text in trials.column(index).unique().to_pylist() if text}
        if any(text != own for own, text in said.items()):
            field = trials.schema.field(index)
            texts = [said.get(text, text) for text in trials.column(index).to_pylist()]
            trials = trials.set_column(index, field, pa.array(texts, field.type))
    return trials
