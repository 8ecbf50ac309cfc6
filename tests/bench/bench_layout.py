"""Floors, import circles, entries per folder, and the path of a `SweepSpec` through the modules, as a table.

Usage: python tests/bench/bench_layout.py [ROOT]

A unit is a module or sub-package directly in `sweeper/`. The floor of a unit is the longest chain of imports below it.
Lazy and TYPE_CHECKING imports count; a circle counts as one node.

A station is a call in `sweeper` that receives a `SweepSpec`, or an object that holds one as `spec`. The stations of an
inline sweep of two trials are listed in order of time. A station climbs if its unit stands on a higher floor than the
station before it. A circle would hide climbs, so grimp first removes the fewest imports that break all circles.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import tokenize
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import grimp

PACKAGES = ("trainables", "search_spaces", "sweeper", "dashboards")
MOST_ENTRIES = 14


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = {stack.pop()}
            while node not in component:
                component.add(stack.pop())
            if len(component) > 1:
                components.append(component)

    sys.setrecursionlimit(10_000)
    for node in edges:
        if node not in index:
            visit(node)
    return components


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """Return the length of the longest chain of imports below each node; a circle counts as one node."""
    owner = {node: min(component) for component in circles(edges) for node in component}
    below: dict[str, set[str]] = {}
    for node, others in edges.items():
        here = owner.get(node, node)
        below.setdefault(here, set()).update({owner.get(o, o) for o in others} - {here})
    depth: dict[str, int] = {}

    def of(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((of(other) for other in below[node]), default=0)
        return depth[node]

    return {node: of(owner.get(node, node)) for node in edges}


def graph(modules_of: str = "") -> dict[str, set[str]]:
    """Return who imports whom; with a package, of its modules only."""
    built = grimp.build_graph(*PACKAGES, cache_dir=None)
    names = [m for m in built.modules if m.startswith(f"{modules_of}.") or not modules_of]
    return {m: set(built.find_modules_directly_imported_by(m)) & set(names) for m in names}


def unit_of(module: str) -> str:
    """Return the part of `sweeper` that a module belongs to; outside of it, the package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "sweeper" else parts[0]


def units(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return who imports whom, by unit."""
    out: dict[str, set[str]] = {}
    for module, others in edges.items():
        out.setdefault(unit_of(module), set()).update({unit_of(o) for o in others} - {unit_of(module)})
    return out


def entries(root: Path) -> dict[str, int]:
    """Return how many modules and sub-packages each folder holds, without `__init__`."""
    folders = [p.parent for name in PACKAGES for p in (root / name).rglob("__init__.py")]
    return {
        str(folder.relative_to(root)): sum(
            (p.suffix == ".py" and p.stem != "__init__") or (p / "__init__.py").exists() for p in folder.iterdir()
        )
        for folder in sorted(set(folders))
    }


def code_lines(root: Path) -> int:
    """Return the lines of the packages that hold code: no blank line, no comment, no docstring."""
    total = 0
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for name in PACKAGES:
        for path in (root / name).rglob("*.py"):
            lines: set[int] = set()
            before = tokenize.INDENT
            for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
                if token.type not in skipped:
                    is_text = token.type == tokenize.STRING and before in skipped
                    if not is_text:
                        lines.update(range(token.start[0], token.end[0] + 1))
                before = token.type
            total += len(lines)
    return total


def floors_without_circles() -> dict[str, int]:
    """Return the floors of the units of `sweeper` after the fewest imports that break all circles are removed."""
    built = grimp.build_graph("sweeper", cache_dir=None)
    for importer, imported in built.nominate_cycle_breakers("sweeper"):
        built.remove_import(importer=importer, imported=imported)
    names = built.modules
    return floors(units({m: set(built.find_modules_directly_imported_by(m)) & names for m in names}))


def stations() -> list[str]:
    """Return the modules whose calls receive a `SweepSpec` in a sweep of two trials, in order of time."""
    from sweeper import SweepSpec, run

    modules: list[str] = []

    def watch(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event != "call" or not name.startswith("sweeper"):
            return
        code = frame.f_code
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = [frame.f_locals.get(argument) for argument in arguments]
        held = [getattr(value, "__dict__", {}).get("spec") for value in values]
        if any(isinstance(value, SweepSpec) for value in (*values, *held)):
            modules.append(name)

    with tempfile.TemporaryDirectory() as folder:
        spec = SweepSpec.model_validate({"space": "synthetic", "trials": 2, "runner": "inline", "out": f"{folder}/run"})
        sys.setprofile(watch)
        try:
            run(spec)
        finally:
            sys.setprofile(None)
    return modules


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[2])
    root = parser.parse_args().root.resolve()
    sys.path.insert(0, str(root))
    whole = graph()
    by_unit = units(whole)
    rows: list[tuple[str, object]] = [
        ("modules", len(whole)),
        ("lines of code", code_lines(root)),
        ("floors of modules in sweeper", max(floors(graph("sweeper")).values())),
        ("floors of units in sweeper", max(floors(units(graph("sweeper"))).values())),
        ("circles of modules", len(circles(whole))),
        ("circles of units", len(circles(by_unit))),
    ]
    rows += [(f"entries of {k}", f"{v}{' !' * (v > MOST_ENTRIES)}") for k, v in entries(root).items()]
    floor = floors_without_circles()
    path = [unit_of(module) for module in stations()]
    climbs = [(a, b) for a, b in pairwise(path) if floor[b] > floor[a]]
    rows += [("stations of a spec", len(path)), ("stations that climb", len(climbs))]
    for name, value in rows:
        print(f"{name:<42}{value!s:>10}")
    for (a, b), count in Counter(climbs).most_common():
        print(f"  {count} times from {a} to {b}")
    for k in sorted(floor, key=lambda unit: -floor[unit]):
        print(f"  floor {floor[k]:>2}: {k}")


if __name__ == "__main__":
    main()
