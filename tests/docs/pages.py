"""The pages of the documentation, and their blocks of code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if p.parent.name != "reference")]
"""Pages that people write; the reference is generated."""


@dataclass(frozen=True)
class Block:
    """A block of code: its language, and its text."""

    language: str
    text: str


def blocks(page: Path, language: str = "") -> list[Block]:
    """Return the blocks of a page, of one language or of all."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.S | re.M)
    return [Block(*b) for b in found if language in ("", b[0])]


def commands(text: str) -> list[list[str]]:
    """Return the words of the `sweeper` commands in a block; a redirection and a comment are left out."""
    lines = [line for line in text.splitlines() if line.startswith("sweeper ")]
    return [shlex.split(line.split(" > ")[0], comments=True)[1:] for line in lines]


def with_output(page: Path) -> Iterator[tuple[list[list[str]], str]]:
    """Yield each block of commands with the output that the page shows of its last one, or with an empty text."""
    every = blocks(page)
    for block, after in zip(every, [*every[1:], Block("", "")], strict=False):
        if block.language == "bash":
            yield commands(block.text), after.text if after.language == "text" else ""
