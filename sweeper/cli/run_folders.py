"""Hints for run folders: the existing ones whose names are nearest to what the user typed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from sweeper.formatting import show_path

_MARK = "sweep.yaml"
_PLACES = (".", "runs", "sweeps")
_MOST = 3


def suggest_folders(args: Any) -> str:
    """Return the end of an error line that names existing run folders; empty if none is near.

    Args:
        args: Parsed arguments with `dir` or `dirs`.
    """
    given = [folder for folder in (getattr(args, "dir", None), *getattr(args, "dirs", ())) if folder]
    missing = next((f for f in given if "://" not in f and not Path(f).exists()), None)
    return "" if missing is None else _suggest(missing)


def _suggest(missing: str) -> str:
    wanted = Path(missing)
    known = {path.resolve(): path for place in (wanted.parent, *map(Path, _PLACES)) for path in _find_runs(place)}
    names = {str(path): path for path in known.values()}
    near = difflib.get_close_matches(missing, names, n=_MOST)
    near += [n for n in names if difflib.get_close_matches(wanted.name, [Path(n).name]) and n not in near]
    if near:
        return f"; did you mean {' or '.join(show_path(name) for name in near[:_MOST])}?"
    newest = sorted(names, key=lambda name: names[name].stat().st_mtime, reverse=True)[:_MOST]
    return f"; there is {', '.join(map(show_path, newest))}" if newest else ""


def _find_runs(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if (path / _MARK).is_file()]
    except OSError:
        return []
