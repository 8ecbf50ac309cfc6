"""Labels of metrics as pages show them."""

from __future__ import annotations


def strip_label(label: str) -> str:
    """Return a label without unit and split."""
    return label.split(" [")[0].replace("validation ", "")


def make_heading(label: str) -> str:
    """Return a label without its unit, capitalized."""
    text = label.split(" [")[0]
    return text[0].upper() + text[1:]
