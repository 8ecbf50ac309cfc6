"""The commands that list names: spaces, noise scales, merges."""

from __future__ import annotations

import argparse

from trainables.noise import NOISE

from .report import emit

DONE = 0


def spaces(args: argparse.Namespace) -> int:
    """`sweeper spaces`."""
    import search_spaces

    loaded = {name: search_spaces.load(name) for name in search_spaces.names()}
    record = [
        {"name": n, "doc": s.doc, "knobs": {k: str(d) for k, d in s.knobs.items()}, "fixed": dict(s.fixed)}
        for n, s in loaded.items()
    ]
    emit(args.json, record, _left(("space", "searches"), [(n, s.doc) for n, s in loaded.items()]))
    return DONE


def noises(args: argparse.Namespace) -> int:
    """`sweeper noises`."""
    record = [
        {"name": s.name, "formula": s.formula, "unit": s.unit, "solves": list(s.knobs), "source": s.source}
        for s in NOISE.values()
    ]
    rows = [(s.name, s.formula, s.unit, ", ".join(s.knobs), s.source) for s in NOISE.values()]
    emit(args.json, record, _left(("noise", "formula", "unit", "solves for", "source"), rows))
    return DONE


def merges(args: argparse.Namespace) -> int:
    """`sweeper merges`."""
    from trainables.merging import MERGES

    record = [
        {"name": m.name, "formula": m.formula, "grid": list(m.grid), "symbol": m.symbol, "source": m.source}
        for m in MERGES.values()
    ]
    rows = [
        (m.name, m.formula, f"{m.symbol} = {m.grid[0]:g} … {m.grid[-1]:g}, {len(m.grid)} points", m.source)
        for m in MERGES.values()
    ]
    emit(args.json, record, _left(("merge", "formula", "grid", "source"), rows))
    return DONE


def _left(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table of texts, all columns aligned left."""
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    return "\n".join(
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in (header, *rows)
    )
