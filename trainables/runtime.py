"""Runtime: where a trial runs and finds its files. It is not part of the trial's identity."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from trainables import __version__

Report = Callable[[Mapping[str, object]], None]
COMMIT_FILE = "commit.txt"
"""File in this package that names its commit, for copies without a checkout."""


class Stop(Exception):  # noqa: N818  (not an error: a trial may end this way)
    """A report raises it to end the trial; its text is the reason."""


@dataclass(frozen=True)
class Runtime:
    """Where and how to run trials.

    Attributes:
        data_root: Folder with the files of the data sets; None if only bundled data is used.
        bases: Folder in which trials share base weights; None keeps them in memory only.
        device: torch device; `auto` is the first GPU, or the CPU without a GPU.
        threads: torch threads; they change the numbers, so that each row stores them.
        cache: Folder for unpacked archives and decoded images; None is `sweeper` in the user's cache folder.
        download: Whether trials may download data sets into `data_root`.
        resident_share: Largest share of the device's free memory for a resident data set; `loader_workers` processes
            read a larger one. The numbers are the same.
        measure: Gradient measurements per child in training; None spends 2 % of the trial, 0 measures nothing.
        landscape: Whether to compute Hessian traces, sharpness and excess barrier.
        plane: Points per side of the loss plane through base and children; 0 computes none.
        deterministic: Whether torch uses deterministic algorithms only.
        rungs: Number of rungs, whose reports may stop a trial; see `trainables.pair.rungs`.
        checkpoints: Folder for checkpoints, from which stopped trials continue; None writes none.
        checkpoint_steps: Optimizer steps between two checkpoints; None is about one minute, 0 writes none.
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

    Outside a checkout the commit comes from `COMMIT_FILE`. It is empty without this file, and without git.
    """
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        file = here / COMMIT_FILE
        return __version__, file.read_text().strip() if file.is_file() else ""

    def git(*args: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=False)
        except OSError:  # a checkout copied to a machine without git
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short=12", "HEAD")
    return __version__, commit + ("+" if commit and git("status", "--porcelain", "--untracked-files=no") else "")
