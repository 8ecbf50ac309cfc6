"""Labels of metrics as pages show them."""

from __future__ import annotations

from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS


def strip_label(label: str) -> str:
    """Return a label without unit and split."""
    return label.split(" [")[0].replace("validation ", "")


def make_heading(label: str) -> str:
    """Return a label without its unit, capitalized."""
    text = label.split(" [")[0]
    return text[0].upper() + text[1:]


def name_column(column: str) -> str:
    """Return the plain name of a score's column, such as `validation loss gain over the mean parent`."""
    for goal in OBJECTIVES.values():
        for split in SPLIT_WORDS:
            if (on := goal.on(split)).column == column:
                return on.label.split(" [")[0]
    stem, _, split = column.rpartition("_")
    return f"{SPLIT_WORDS[split]} {stem.replace('_', ' ')}" if split in SPLIT_WORDS else column.replace("_", " ")


def format_sentence(text: str) -> str:
    """Return a phrase as a sentence, with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
