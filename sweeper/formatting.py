"""Text of values that a reader can paste back, and the comparison that accepts it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainables.io.printable import printable_line


def exact_text(value: Any) -> str:
    """Return the shortest text from which Python reads the same number; other values as `str` gives them."""
    return float.__repr__(value).removesuffix(".0") if isinstance(value, float) else str(value)


def cell_text(value: Any) -> str:
    """Return the shortest text by which `is_value` finds a cell: a float32 value needs few digits."""
    short = (
        str(_single(value)).removesuffix(".0") if isinstance(value, float) and _is_single(value) else exact_text(value)
    )
    return min(short, exact_text(value), key=len)


def is_value(value: Any, text: str) -> bool:
    """Return whether a cell holds the value that a text names.

    Numbers agree to nine digits; a float32 value also agrees with every text that float32 rounds to it.
    """
    if isinstance(value, bool):
        return text.strip().lower() == str(value).lower()
    if not isinstance(value, int | float):
        return value == text
    try:
        named = float(text)
    except ValueError:
        return False
    if math.isclose(value, named, rel_tol=1e-9, abs_tol=0.0):
        return True
    return value != 0 and _is_single(value) and float(_single(named)) == value


def _is_single(value: float) -> bool:
    return float(_single(value)) == value


def _single(value: float) -> np.float32:
    import numpy as np  # the client loads this module and needs no numpy

    with np.errstate(over="ignore"):
        return np.float32(value)


_STARTS = "[=+\\-@\t\r\n＝＋－＠]"


# text that begins with apostrophes gets one more, so that reading gives the same text back
_FORMULA, _QUOTED = f"^('*{_STARTS})", f"^'('*{_STARTS})"


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as CSV in which no cell and no heading is a formula; numbers stay as they are."""
    import pyarrow.csv

    target = io.BytesIO()
    pyarrow.csv.write_csv(_replace_cells(table, _FORMULA, r"'\1"), target)
    return target.getvalue()


def unquote_cell(text: str) -> str:
    """Return the text of a cell that `csv_bytes` wrote."""
    return re.sub(_QUOTED, r"\1", text)


def _replace_cells(table: pa.Table, pattern: str, by: str) -> pa.Table:
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


WIDTH = 100


SYNTHETIC = "synthetic closed form: no network was trained"


ELSEWHERE = "imported from a table: trained elsewhere"


_NO_MERGE: Mapping[tuple[str, float | None], str] = {
    **{(method, 0.0): "parent A" for method in ("linear", "slerp", "fisher")},
    **{(method, 1.0): "parent B" for method in ("linear", "slerp", "fisher")},
    **{(method, 0.0): "the base" for method in ("task_arithmetic", "ties", "dare")},
}


_CLOSE = re.compile(r" (?=%)|(?<=[=<±]) | (?=[=<±] )")


_NO_COEFFICIENT = ("uniform_soup", "greedy_soup")


def number(value: float | None) -> str:
    """Return a number with three significant digits, `-` where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    # %g turns 1234 into 1.23e+03
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def plain_text(value: Any) -> str:
    """Return a value of a record for people: floats by `number`, `–` where there is none, yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return "–" if value is None else printable_line(str(value))


def pluralize(count: int, noun: str) -> str:
    """Return a number with its noun, such as `1 trial` and `2 trials`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def merge_words(method: str, coefficient: float | None) -> str:
    """Return a merge with its coefficient for people; the ends of a merge that are no merge are called so."""
    if method in _NO_COEFFICIENT:
        return method.replace("_", " ")
    plain = _NO_MERGE.get((method, coefficient))
    return f"{plain} (no merge)" if plain else f"{method.replace('_', ' ')} at {number(coefficient)}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 2) -> str:
    """Return a table with its first column aligned left and the others right, without trailing blanks."""
    table = [[printable_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    lines: list[str] = []
    for line in table:
        cells = [f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def wrap(text: str, indent: int) -> str:
    """Return text in lines of at most `WIDTH` columns, the first indented by `indent`, the others by two more.

    `90 %`, `n = 12` and their like are not parted.
    """
    # paths and commands have hyphens: broken there, they could not be pasted
    first, rest = " " * indent, " " * (indent + 2)
    kept = _CLOSE.sub("\N{NO-BREAK SPACE}", text)
    lines = textwrap.fill(kept, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


FACTORS = {
    "learning_rate": "η",
    "batch_size": "B",
    "momentum": "1−μ",
    "weight_decay": "λ",
    "k_aug": "k_aug",
}
