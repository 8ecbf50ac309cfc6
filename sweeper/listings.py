"""The commands that list names: spaces, noise scales, merges."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import search_spaces
from search_spaces import Space
from trainables.noise import FAMILIES, NOISE

from .report import emit, wrap

DONE = 0


def spaces(args: argparse.Namespace) -> int:
    """`sweeper spaces`."""
    loaded = [search_spaces.load(name) for name in search_spaces.names()]
    emit(args.json, [space_record(s) for s in loaded], "\n".join(_space(s) for s in loaded))
    return DONE


def space_record(space: Space) -> dict[str, Any]:
    """Return a space as JSON has it."""
    return {
        "name": space.name,
        "doc": space.doc,
        "budget": space.budget,
        "source": space.source,
        "knobs": _texts(space),
        "fixed": dict(space.fixed),
        "smoke": {k: v if k not in space.small().knobs else str(v) for k, v in space.smoke.items()},
    }


def _texts(space: Space) -> dict[str, str]:
    def when(name: str) -> str:
        parts = [f"{other} is {' or '.join(map(str, v))}" for other, v in space.conditions.get(name, {}).items()]
        return f" when {' and '.join(parts)}" if parts else ""

    return {name: f"{distribution}{when(name)}" for name, distribution in space.knobs.items()}


def _space(space: Space) -> str:
    small = f"{space.budget}; --smoke: seconds a pair on a CPU" if space.smoke else space.budget
    return f"{space.name}\n{wrap(space.doc, 2)}\n{wrap(small, 2)}"


def noises(args: argparse.Namespace) -> int:
    """`sweeper noises`."""
    record = noise_records()
    rows = [
        (s.name, s.kind, s.formula, s.unit, ", ".join(s.knobs) or "–", _families(s.families), s.source)
        for s in NOISE.values()
    ]
    emit(args.json, record, _left(("noise", "kind", "formula", "unit", "solves for", "optimizers", "source"), rows))
    return DONE


def noise_records() -> list[dict[str, Any]]:
    """Return the noise scales as JSON has them."""
    return [
        {
            "name": s.name,
            "kind": s.kind,
            "formula": s.formula,
            "unit": s.unit,
            "solves": list(s.knobs),
            "optimizers": list(s.families),
            "source": s.source,
        }
        for s in NOISE.values()
    ]


def _families(names: tuple[str, ...]) -> str:
    return "all" if set(names) == set(FAMILIES) else ", ".join(names)


def merges(args: argparse.Namespace) -> int:
    """`sweeper merges`."""
    from trainables.merging import MERGES

    record = merge_records()
    rows = [(m.name, m.formula, _grid(m.symbol, m.grid), m.source) for m in MERGES.values()]
    emit(args.json, record, _left(("merge", "formula", "grid", "source"), rows))
    return DONE


def merge_records() -> list[dict[str, Any]]:
    """Return the merges as JSON has them."""
    from trainables.merging import MERGES

    return [
        {"name": m.name, "formula": m.formula, "grid": list(m.grid), "symbol": m.symbol, "source": m.source}
        for m in MERGES.values()
    ]


def _grid(symbol: str, grid: Sequence[float]) -> str:
    return f"{symbol} = {grid[0]:g} … {grid[-1]:g}, {len(grid)} points" if len(grid) > 1 else "one point"


def _left(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table of texts, all columns aligned left."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in (header, *rows)
    )
