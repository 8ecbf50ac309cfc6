"""Labels of metrics as pages show them."""

from __future__ import annotations


def words(label: str) -> str:
    """Return a label without its unit and its split."""
    return label.split(" [")[0].replace("validation ", "")


def heading(label: str) -> str:
    """Return a label without its unit, its first letter large."""
    text = label.split(" [")[0]
    return text[0].upper() + text[1:]
