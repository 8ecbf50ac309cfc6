"""What belongs to the server's account alone: the state folder and the SQLite file, also where they existed before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sweeper.errors import SpecError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> None:
    """Make a folder that only this account may enter, or take the rights of others from one that exists.

    Raises:
        SpecError: All users share the folder, such as `/tmp`, or its rights cannot be changed.
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & stat.S_ISVTX:
        raise SpecError(f"all users write to {folder}: give the server a folder of its own, such as {folder}/sweeper")
    _take(folder, 0o700)
    control = folder / "sweeps"
    if control.is_dir():
        for inner in (control, *control.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                _take(inner, 0o700)


def make_private_file(file: Path) -> None:
    """Make a SQLite file that only this account may read, or take the rights of others from one that exists.

    SQLite gives the files beside it, which hold the newest changes, the same rights.

    Raises:
        SpecError: Its rights cannot be changed.
        OSError: The file cannot be made.
    """
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for end in ("", "-wal", "-shm", "-journal", ".lock"):
        beside = file.with_name(file.name + end)
        if beside.exists():
            _take(beside, 0o600)


def _take(path: Path, mode: int) -> None:
    if not path.stat().st_mode & _OTHERS:
        return
    try:
        path.chmod(mode)
    except OSError as error:
        raise SpecError(
            f"other users may read {path}, and this account may not change that ({error.strerror}): run as its owner, "
            "or give another --state or --database"
        ) from None
