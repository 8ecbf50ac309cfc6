"""Formatting of values, cells, tables and paragraphs, and comparison of a cell with a text."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.io.printable import printable_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def exact_text(value: Any) -> str:
    """Return the shortest text from which Python reads the same number; for other values their `str`."""
    return float.__repr__(value).removesuffix(".0") if isinstance(value, float) else str(value)


def cell_text(value: Any) -> str:
    """Return the shortest text that `is_value` accepts for a cell; a float32 value needs few digits."""
    short = (
        str(_single(value)).removesuffix(".0") if isinstance(value, float) and _is_single(value) else exact_text(value)
    )
    return min(short, exact_text(value), key=len)


def is_value(value: Any, text: str) -> bool:
    """Return whether a cell holds the value of a text.

    Numbers agree to nine digits. A float32 value also agrees with every text that float32 rounds to it.
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
    import numpy as np  # lazy, since the client loads this module without numpy

    with np.errstate(over="ignore"):
        return np.float32(value)


_STARTS = "[=+\\-@\t\r\n＝＋－＠]"


# a text that starts with apostrophes gets one more, so that reading restores it
_FORMULA, _QUOTED = f"^('*{_STARTS})", f"^'('*{_STARTS})"


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as CSV without formulas in cells and headings; numbers stay the same."""
    import pyarrow.csv

    target = io.BytesIO()
    pyarrow.csv.write_csv(_replace_cells(table, _FORMULA, r"'\1"), target)
    return target.getvalue()


def unquote_cell(text: str) -> str:
    """Return the original text of a cell in the output of `csv_bytes`."""
    return re.sub(_QUOTED, r"\1", text)


def _replace_cells(table: pa.Table, pattern: str, by: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute

    functions: Any = pyarrow.compute  # it creates its functions at import, which hides them from type checkers
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


# what `trainables.merging.methods.MERGES` says of these merges, without torch; tests/contracts compares the two
BETWEEN_PARENTS = ("linear", "slerp", "fisher", "fisher_adam", "weight_matching", "weight_matching_repair")
FROM_BASE = ("task_arithmetic", "ties", "dare")
WITHOUT_COEFFICIENT = ("uniform_soup", "model_stock", "greedy_soup")


_CLOSE = re.compile(r" (?=%)|(?<=[=<±]) | (?=[=<±] )")


def number(value: float | None) -> str:
    """Return a number with three significant digits; `-` for None and non-finite values."""
    if value is None or not math.isfinite(value):
        return "-"
    # %g turns 1234 into 1.23e+03
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def at_share(share: float | None) -> str:
    """Return ` at F of the budget`, for scores of trials with a share of the training budget; empty for None."""
    return "" if share is None else f" at {number(share)} of the budget"


def finite_or_none(value: Any) -> Any:
    """Return a value that JSON can hold: None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_text(value: Any) -> str:
    """Return a value of a record for people: floats by `number`, `–` for None, yes or no for booleans."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return "–" if value is None else printable_line(str(value))


def pluralize(count: int, noun: str, plural: str = "", *, form: str = "d") -> str:
    """Return a number with its noun, such as `1 trial` and `2 trials`.

    Args:
        count: The number.
        noun: Noun of one, also with its verb: `trial runs`.
        plural: The same for other numbers; by default the noun with an s.
        form: Format of the number, such as `,d` with marks of thousands.
    """
    return f"{count:{form}} {noun if count == 1 else plural or f'{noun}s'}"


def method_words(method: str) -> str:
    """Return words for a merge method, such as `task arithmetic`."""
    return method.replace("_", " ")


def merge_words(method: str, coefficient: float | None, window: int | None = None) -> str:
    """Return words for a merge with its coefficient; a coefficient that selects one model is marked `no merge`.

    Args:
        method: Name of the merge.
        coefficient: Its coefficient.
        window: Last checkpoints that each child averages before the merge; None without an average.
    """
    if window:
        return f"{merge_words(method, coefficient)}, averages of the last {window} checkpoints"
    if method in WITHOUT_COEFFICIENT:
        return method_words(method)
    ends = {0.0: "parent A", 1.0: "parent B"} if method in BETWEEN_PARENTS else {}
    ends |= {0.0: "the base"} if method in FROM_BASE else {}
    plain = None if coefficient is None else ends.get(coefficient)
    return f"{plain} (no merge)" if plain else f"{method_words(method)} at {number(coefficient)}"


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, indent: int = 2, left_columns: int = 1
) -> str:
    """Return a table whose first columns are left-aligned and whose others are right-aligned, without trailing blanks.

    Args:
        header: Headings of the columns.
        rows: Cells of the rows.
        indent: Number of blanks before each line.
        left_columns: Number of left-aligned columns.
    """
    # rich.table takes 90 times as long: 36 s for the 10,000 rows of a large sweep
    table = [[printable_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(header))]
    lines: list[str] = []
    for line in table:
        cells = [
            f"{cell:<{width}}" if i < left_columns else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def wrap(text: str, indent: int) -> str:
    """Return text in lines of at most `WIDTH` columns, with an indent of `indent`, and two more after the first line.

    `90 %`, `n = 12` and similar stay on one line.
    """
    # a break at a hyphen would split paths and commands, which readers paste
    first, rest = " " * indent, " " * (indent + 2)
    kept = _CLOSE.sub("\N{NO-BREAK SPACE}", text)
    lines = textwrap.fill(kept, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def show_path(path: str | Path) -> str:
    """Return a path as people read it: relative to the working directory if it lies below it, else absolute.

    A URI stays as it is.
    """
    if "://" in str(path):
        return str(path)
    whole = Path(path).absolute()
    try:
        return str(whole.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the working directory is gone
        return str(whole)


def add_unit(text: str, unit: str) -> str:
    """Return a text with its unit in brackets; a number without a unit (`1` or empty) gets none."""
    return text if unit in ("", "1") else f"{text} [{unit}]"


@dataclass(frozen=True)
class KnobName:
    """The names of a knob in texts, tables and figures.

    Attributes:
        name: Plain name.
        symbol: Its symbol; empty if it has none.
        unit: Its unit.
        base: Quantity of the noise formulas that the knob sets, if it is not the symbol.
        divides: Whether noise formulas divide by that quantity.
    """

    name: str
    symbol: str = ""
    unit: str = "1"
    base: str = ""
    divides: bool = False

    @property
    def short(self) -> str:
        """The symbol, or the plain name without one."""
        return self.symbol or self.name

    @property
    def label(self) -> str:
        """Name and symbol, such as `learning rate η`."""
        return f"{self.name} {self.symbol}".rstrip()

    @property
    def title(self) -> str:
        """Name, symbol and unit, such as `batch size B [examples]`."""
        return add_unit(self.label, self.unit)

    @property
    def quantity(self) -> str:
        """The quantity of the noise formulas, such as `1−μ`."""
        return self.base or self.short

    @property
    def factor(self) -> str:
        """The factor of the noise formulas, such as `1/(1−μ)`."""
        bracketed = f"({self.base})" if self.base else self.short
        return f"1/{bracketed}" if self.divides else self.quantity

    @property
    def log(self) -> str:
        """The logarithm of the factor, such as `−ln(1−μ)`."""
        return f"{'−' * self.divides}ln{f'({self.base})' if self.base else f' {self.short}'}"


KNOB_NAMES: Mapping[str, KnobName] = {
    "learning_rate": KnobName("learning rate", "η"),
    "batch_size": KnobName("batch size", "B", "examples", divides=True),
    "momentum": KnobName("momentum", "μ", base="1−μ", divides=True),
    "weight_decay": KnobName("weight decay", "λ"),
    "k_aug": KnobName("noise factor of augmentation", "k_aug"),
    "augmentation": KnobName("augmentation policy"),
    "augmentation_strength": KnobName("augmentation strength"),
}


def name_knob(key: str) -> KnobName:
    """Return the names of a knob; an unknown knob goes by its key."""
    return KNOB_NAMES.get(key) or KnobName(key)


def per_token(loss: float | None, bytes_per_token: float | None) -> tuple[float, float] | None:
    """Return perplexity and bits per byte of a loss in nat per token; None for images and without a loss."""
    if loss is None or bytes_per_token is None or not math.isfinite(loss):
        return None
    return math.exp(min(loss, 700.0)), loss / (bytes_per_token * math.log(2))


def describe_per_token(loss: float | None, bytes_per_token: float | None) -> str:
    """Return perplexity and bits per byte as words; empty for images and without a loss."""
    found = per_token(loss, bytes_per_token)
    return f"perplexity {found[0]:.3g}, {found[1]:.3g} bits per byte" if found else ""
