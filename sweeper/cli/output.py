"""Output of the commands: text or JSON."""

from __future__ import annotations

import json
from typing import Any


def emit(as_json: bool, record: Any, text: str) -> None:
    """Print a command's result on stdout: the record as JSON, or the text."""
    print(json.dumps(record, indent=1, default=str) if as_json else text)
