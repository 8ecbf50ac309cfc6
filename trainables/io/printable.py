"""Text that is safe to print: control and format characters become escapes, in strings and in streams."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO, cast

_SUSPECT = re.compile(r"[^\t\n\x20-\x7e]")
_KINDS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: control, format, surrogate, line separator, paragraph separator."""


def printable(text: str) -> str:
    """Return text with control and format characters as JSON escapes; a JSON text keeps its meaning.

    Tabs and newlines stay.
    """
    return text if text.isascii() and text.isprintable() else _SUSPECT.sub(_escape, text)


def printable_line(text: str) -> str:
    """Return text as `printable` does, on one line: tabs and newlines become escapes too."""
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


def show_value(value: object) -> str:
    """Return a value as error messages show it; None, the `null` of YAML, is no name."""
    return "nothing (null)" if value is None else repr(value)


def is_plain(text: str) -> bool:
    """Return whether text is one line without control and format characters, as names must be."""
    return printable_line(text) == text


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in _KINDS:
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


class PrintableStream:
    """A text stream that escapes text by `printable` before it writes to the wrapped stream.

    Args:
        raw: The wrapped stream; a progress bar may use it directly.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    @classmethod
    def of(cls, stream: TextIO | PrintableStream) -> PrintableStream:
        """Return `stream` if it escapes already, else a wrapper that does."""
        return stream if isinstance(stream, PrintableStream) else cls(stream)

    def write(self, text: str) -> int:
        """Write text and return its length before escaping."""
        self.raw.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def guard_output() -> None:
    """Make stdout and stderr of this process escape their output, tracebacks included."""
    os.environ.setdefault("NO_COLOR", "1")  # libraries' colours are escape sequences, too
    for name in ("stdout", "stderr"):
        if stream := getattr(sys, name):  # None where there is no console
            setattr(sys, name, cast(TextIO, PrintableStream.of(stream)))
