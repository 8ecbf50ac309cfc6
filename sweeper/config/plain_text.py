"""The rule for names and strings of a spec: no control and no format characters, which could drive a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.errors import SpecError
from trainables.io.printable import is_plain

RULE = "must not hold control or format characters"
_CODE = "source"
"""The one string that is a file's text."""


def plain_text(text: str) -> str:
    """Return the text, for pydantic's validators.

    Raises:
        ValueError: It holds a control or format character.
    """
    if not is_plain(text):
        raise ValueError(RULE)
    return text


def check_plain(key: str, text: str) -> None:
    """Refuse a name or string that holds a control or format character.

    Raises:
        SpecError: It does; the message names the key and shows the text escaped.
    """
    if not is_plain(text):
        raise SpecError(f"{key} {RULE}, got {text[:80]!r}")


def check_plain_values(values: Mapping[str, Any], lines: Mapping[str, int] | None = None, where: str = "") -> None:
    """Refuse a spec in which any key or string holds a control or format character.

    Args:
        values: The spec.
        lines: The line on which each dotted key stands.
        where: The file of these lines.

    Raises:
        SpecError: One does; the message names the line.
    """
    for path, text in _strings("", values):
        line = (lines or {}).get(path)
        check_plain(f"{where}, line {line}: {path}" if where and line else path or "a key", text)


def _strings(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield f"a key of {path}" if path else "a key", str(key)
            if key != _CODE:
                yield from _strings(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(path, item)
