"""Output of the commands: text or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

JSON_VERSION = 1
"""Version of the JSON of every command: it grows when a key goes away or changes its meaning.

`schemas/NAME.json` describes each output; see `docs/reference/json.md`.
"""


def emit(as_json: bool, record: Any, text: str) -> None:
    """Print a command's result on stdout: the record as JSON with `schema_version`, or the text.

    Args:
        as_json: Whether to print JSON.
        record: The result, a mapping or a list; a list becomes `items`. Numbers that are not finite become null.
        text: The result for people.
    """
    if not as_json:
        print(text)
        return
    content = dict(record) if isinstance(record, Mapping) else {"items": record}
    print(json.dumps(_finite({"schema_version": JSON_VERSION, **content}), indent=1, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
