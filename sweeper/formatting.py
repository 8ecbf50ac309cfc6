"""Text of values that a reader can paste back, and the comparison that accepts it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def exact(value: Any) -> str:
    """Return the shortest text from which Python reads the same number; other values as `str` gives them."""
    return float.__repr__(value).removesuffix(".0") if isinstance(value, float) else str(value)


def cell_text(value: Any) -> str:
    """Return the shortest text by which `is_value` finds a cell: a float32 value needs few digits."""
    short = str(_single(value)).removesuffix(".0") if isinstance(value, float) and _is_single(value) else exact(value)
    return min(short, exact(value), key=len)


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
