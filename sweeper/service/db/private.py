"""Folders and files that only the server's account may read: the state folder and the SQLite file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sweeper.errors import SpecError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> None:
    """Create a folder that only this account may enter; if it exists, revoke the rights of other users.

    Raises:
        SpecError: All users share the folder, such as `/tmp`, or its rights cannot be changed.
        OSError: The folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & stat.S_ISVTX:
        raise SpecError(f"all users can write to {folder}: give the server a private folder, such as {folder}/sweeper")
    _restrict(folder, 0o700)
    control = folder / "sweeps"
    if control.is_dir():
        for inner in (control, *control.iterdir()):
            if inner.is_dir() and not inner.is_symlink():
                _restrict(inner, 0o700)


def make_private_file(file: Path) -> None:
    """Create a SQLite file that only this account may read; if it exists, revoke the rights of other users.

    SQLite gives the same rights to its log files, which hold the newest changes.

    Raises:
        SpecError: Its rights cannot be changed.
        OSError: The file cannot be created.
    """
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for suffix in ("", "-wal", "-shm", "-journal", ".lock"):
        part = file.with_name(file.name + suffix)
        if part.exists():
            _restrict(part, 0o600)


def _restrict(path: Path, mode: int) -> None:
    if not path.stat().st_mode & _OTHERS:
        return
    try:
        path.chmod(mode)
    except OSError as error:
        raise SpecError(
            f"other users can read {path}, and this account cannot change that ({error.strerror}): run as its owner, "
            "or give another --state or --database"
        ) from None
