"""The packages have no import circle, no crowded folder and no long module."""

from __future__ import annotations

from pathlib import Path

from tests.bench.bench_layout import MOST_ENTRIES, PACKAGES, circles, entries, floors, graph, units

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
MOST_FLOORS = 10


def test_imports_make_no_circle() -> None:
    modules = graph()
    assert circles(modules) == []
    assert circles(units(modules)) == []


def test_the_sub_packages_stand_on_few_floors() -> None:
    assert max(floors(units(graph("sweeper"))).values()) <= MOST_FLOORS


def test_a_folder_has_few_entries() -> None:
    # in `search_spaces` a file is a space
    crowded = {k: n for k, n in entries(ROOT).items() if n > MOST_ENTRIES and k != "search_spaces"}
    assert crowded == {}


def test_a_module_is_short() -> None:
    lines = {p: len(p.read_text().splitlines()) for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    assert {str(p.relative_to(ROOT)): n for p, n in lines.items() if n > MOST_LINES} == {}
