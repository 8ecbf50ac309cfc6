"""Runtime: where a trial runs and finds its files. Nothing here is part of a trial's identity."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainables import __version__

Report = Callable[[Mapping[str, object]], None]
COMMIT_FILE = "commit.txt"
"""In this package where it is shipped without its checkout: of which commit it is."""


class Stop(Exception):  # noqa: N818  (no error: how a trial may end)
    """Raised by a report to end the trial here; its text is the reason."""


@dataclass(frozen=True)
class Runtime:
    """Where to run.

    Attributes:
        data_root: Folder with the data sets' files; None where only bundled data is used.
        bases: Folder in which base weights are shared between trials; None keeps them in memory only.
        device: torch device; `auto` is the first GPU where there is one, else the CPU.
        threads: torch threads; they are part of the numbers, so they are stored in each row.
        cache: Folder for unpacked archives and decoded images; None is `sweeper` in the user's cache folder.
        download: Whether data sets may be fetched into `data_root`.
        resident_share: Share of the device's free memory that a data set may take to be resident on it; a larger one
            is read by `loader_workers` processes. The numbers are the same.
        measure: Gradient measurements of each child while training; None spends 2 % of the trial, 0 measures nothing.
        landscape: Whether Hessian traces, sharpness and excess barrier are computed.
        plane: Points per side of the loss plane through base and children; 0 leaves it out.
        deterministic: Whether torch uses deterministic algorithms only.
        rungs: How often a trial is looked at and reported on its way, for a report that may stop it; see
            `trainables.pair.rungs`.
        checkpoints: Folder for what a trial needs to go on where it was stopped; None keeps nothing.
        checkpoint_steps: Optimizer steps between two checkpoints; None is about a minute's, 0 writes none.
    """

    data_root: str | None = None
    bases: str | None = None
    device: str = "cpu"
    threads: int = 1
    cache: str | None = None
    download: bool = False
    resident_share: float = 0.5
    loader_workers: int = 2
    measure: int | None = None
    landscape: bool = False
    plane: int = 0
    deterministic: bool = False
    rungs: int = 0
    checkpoints: str | None = None
    checkpoint_steps: int | None = None


@cache
def package_version() -> tuple[str, str]:
    """Return (version, commit) of this package; `+` marks local changes.

    Outside a checkout the commit is the one that `COMMIT_FILE` holds; it is empty without one, and where git is not
    installed.
    """
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        noted = here / COMMIT_FILE
        return __version__, noted.read_text().strip() if noted.is_file() else ""

    def git(*args: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=False)
        except OSError:  # a checkout copied to a machine without git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=12", "HEAD")
    return __version__, commit + ("+" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
