"""Cells of tables: a reader of CSV and a parser of cells, for `sweeper import` and `--enqueue`."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sweeper.errors import SpecError
from sweeper.formatting import unquote_cell

_EMPTY = frozenset({"", "#n/a", "#na", "-nan", "<na>", "n/a", "na", "nan", "none", "null"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INFINITE = re.compile(r"([+-]?)inf(inity)?", re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?\d[\d.,' \u00a0\u202f]*[,' \u00a0\u202f][\d.,]*([eE][+-]?\d+)?")
_TRUTHS = {"true": True, "false": False}
_DELIMITERS = ",;\t"
_SEPARATOR = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # first line of a file from Excel
_MOST = 2**63  # whole numbers are stored in 64 bits
_KINDS = {list: "a list", dict: "a record", bytes: "bytes"}
_TIMES = (date, time, timedelta)
_SHOWN, _LONGEST = 5, 60


def parse(value: Any, kind: str | None = None) -> Any:
    """Return the value of a cell; None if it is empty or NaN.

    Args:
        value: Text, or the value of a typed column.
        kind: `float`, `int`, `bool` or `str`; None turns text that looks like a number into a number.

    Raises:
        ValueError: The cell is of another kind; the message starts with `must be`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "str":
        return _text(value)
    if is_empty(value):
        return None
    if kind == "bool":
        return _truth(value)
    if kind in ("float", "int"):
        return _number(value, whole=kind == "int")
    if isinstance(value, str):
        return _number(value) if _NUMBER.fullmatch(value.strip()) else value.strip()
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"must be a number or text, got {_shown(value)}")
    return float(value) if isinstance(value, Decimal) else value


def is_empty(cell: Any) -> bool:
    """Return whether a cell is empty or holds a mark such as NaN or N/A."""
    if isinstance(cell, str):
        return cell.strip().lower() in _EMPTY
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _number(value: Any, whole: bool = False) -> float | int | None:
    rule, way = ("must be a whole number", "") if whole else ("must be a number", "a decimal point and ")
    cell = value
    if isinstance(value, str):
        text = value.strip()
        if match := _INFINITE.fullmatch(text):
            value = float(f"{match[1]}inf")
        elif _NUMBER.fullmatch(text):
            value = float(text)
            if abs(value) < _MOST and not re.search(r"[.eE]", text):
                value = int(text)
        elif _GROUPED.fullmatch(text):
            raise ValueError(f"{rule} with {way}no thousands separators, got {_shown(cell)}")
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{rule}, got {_shown(cell)}")
    if math.isnan(value):
        return None
    if whole and (math.isinf(value) or value % 1):
        raise ValueError(f"{rule}, got {_shown(cell)}")
    if whole and not -_MOST <= value < _MOST:
        raise ValueError(f"{rule} below 2^63, got {_shown(cell)}")
    return int(value) if whole else value


def _truth(value: Any) -> bool:
    truth = _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(truth, bool):
        raise ValueError(f"must be true or false, got {_shown(value)}")
    return truth


def _text(value: Any) -> str:
    if isinstance(value, list | dict | bytes):
        raise ValueError(f"must be text, got {_shown(value)}")
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _shown(value: Any) -> str:
    kind = next((word for kind, word in _KINDS.items() if isinstance(value, kind)), "")
    text = str(value) if isinstance(value, _TIMES) else repr(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"{kind} {text}".strip()


@dataclass
class BadCells:
    """Faults in the cells of a table.

    Attributes:
        name: Name of the table, for messages.
        total: Number of rows.
        faults: Row, counted from 1 -> its first fault.
    """

    name: str
    total: int
    faults: dict[int, str] = field(default_factory=lambda: {})

    def add(self, row: int, fault: str) -> None:
        """Note a fault of a row, unless the row has one."""
        self.faults.setdefault(row, fault)

    def parse(self, cells: Sequence[Any], kind: str | None, where: str) -> list[Any]:
        """Return the values of a column; a wrong cell becomes a fault and None.

        Args:
            cells: The cells of the column.
            kind: As in `parse`.
            where: Name of the column, for messages.
        """
        values: list[Any] = []
        for row, cell in enumerate(cells, 1):
            try:
                values.append(parse(cell, kind))
            except ValueError as error:
                self.add(row, f"{where} {error}")
                values.append(None)
        return values

    def refuse(self, way: str = "") -> None:
        """Raise if a row has a fault.

        Args:
            way: Way out, to end the message with.

        Raises:
            SpecError: A row has a fault; the message counts these rows and shows the first five.
        """
        if not self.faults:
            return
        rows = sorted(self.faults)
        shown = "; ".join(f"row {row}: {self.faults[row]}" for row in rows[:_SHOWN])
        more = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        head = f"{self.name}: {len(rows)} of {self.total} rows cannot be used: " if len(rows) > 1 else f"{self.name}, "
        raise SpecError(f"{head}{shown}{more}{f'; {way}' if way else ''}")


@dataclass(frozen=True)
class CsvTable:
    """Text of a CSV file.

    Attributes:
        names: Names of the columns.
        rows: The rows, with one cell per column.
        faults: Row, counted from 1 -> fault in its number of cells.
    """

    names: list[str]
    rows: list[list[str]]
    faults: dict[int, str]


def read_csv(path: Path) -> CsvTable:
    """Return the columns and rows of a CSV file.

    The delimiter is the most frequent comma, semicolon or tab in the heading, or the one that a first line `sep=;`
    names. The reader skips a byte order mark and blank lines. A column without a name becomes `column N`, or is left
    out if it is empty.

    Raises:
        SpecError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").lstrip("\r\n")
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} must be text in UTF-8; save it as `CSV UTF-8`") from None
    if separator := _SEPARATOR.match(text):
        text = text[separator.end() :].lstrip("\r\n")
    delimiter = separator[1] if separator else max(_DELIMITERS, key=text.partition("\n")[0].count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise SpecError(f"cannot read {path}: {error}") from None
    lines = [line for line in lines if len(line) > 1 or any(cell.strip() for cell in line)]
    if not lines:
        raise SpecError(f"{path} is empty; its first line must name the columns")
    names, rows = [unquote_cell(name.strip()) for name in lines[0]], lines[1:]
    width = len(names)
    faults = {
        i: f"must have {width} cells as the heading has, got {len(row)}"
        for i, row in enumerate(rows, 1)
        if len(row) != width
    }
    rows = [[unquote_cell(cell) for cell in [*row, *[""] * width][:width]] for row in rows]
    kept = [i for i, name in enumerate(names) if name or not all(is_empty(row[i]) for row in rows)]
    names = [name or f"column {i + 1}" for i, name in enumerate(names)]
    return CsvTable([names[i] for i in kept], [[row[i] for i in kept] for row in rows], faults)
