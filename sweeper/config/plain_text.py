"""Rule for the names and strings of a spec: no control or format characters, which could drive a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.errors import SpecError
from trainables.io.printable import is_plain

RULE = "must not hold control or format characters"
_CODE = "source"
"""Key whose value is the text of a file, which may hold them."""


def plain_text(text: str) -> str:
    """Return the text; for pydantic's validators.

    Raises:
        ValueError: The text holds a control or format character.
    """
    if not is_plain(text):
        raise ValueError(RULE)
    return text


def check_plain(key: str, text: str) -> None:
    """Check that a name or string holds no control or format character.

    Raises:
        SpecError: It holds one; the message names the key and shows the text escaped.
    """
    if not is_plain(text):
        raise SpecError(f"{key} {RULE}, got {text[:80]!r}")


def check_plain_values(values: Mapping[str, Any], lines: Mapping[str, int] | None = None, where: str = "") -> None:
    """Check that no key and no string of a spec holds a control or format character.

    Args:
        values: Keys of the spec, with their values.
        lines: Dotted key -> its line.
        where: File of these lines.

    Raises:
        SpecError: One of them does; the message names the line.
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
