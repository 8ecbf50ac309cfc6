"""CSV that a spreadsheet opens as data: text that would be a formula there gets a leading apostrophe.

The apostrophe is what spreadsheets use themselves; `unquoted` takes it away again.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_STARTS = "[=+\\-@\t\r\n＝＋－＠]"
# text that begins with apostrophes gets one more, so that reading gives the same text back
_FORMULA, _QUOTED = f"^('*{_STARTS})", f"^'('*{_STARTS})"


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as CSV in which no cell and no heading is a formula; numbers stay as they are."""
    import pyarrow.csv

    target = io.BytesIO()
    pyarrow.csv.write_csv(_replaced(table, _FORMULA, r"'\1"), target)
    return target.getvalue()


def unquoted(text: str) -> str:
    """Return the text of a cell that `csv_bytes` wrote."""
    return re.sub(_QUOTED, r"\1", text)


def _replaced(table: pa.Table, pattern: str, by: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute

    functions: Any = pyarrow.compute  # whose functions are made when it is imported
    for i, field in enumerate(table.schema):
        column, kind = table.column(i), field.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = functions.replace_substring_regex(column, pattern=pattern, replacement=by)
        table = table.set_column(i, re.sub(pattern, by, field.name), column)
    return table
