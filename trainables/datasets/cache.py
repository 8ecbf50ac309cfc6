"""The cache folder: unpacked archives and decoded images, made once by the first process that needs them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.io.atomic import replace_atomic
from trainables.runtime import Runtime

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""Errors of mounted file systems without locks."""


class LostCheckpoint(UserWarning):
    """A checkpoint that cannot be read, so that the trial starts anew, or that cannot be written."""


def cache_folder(runtime: Runtime) -> Path:
    """Return `runtime.cache`; the default is `sweeper` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    if runtime.cache is not None:
        return Path(runtime.cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sweeper"


@contextmanager
def lock(path: Path) -> Generator[None]:
    """Hold the lock of `path`, a file beside it, during the block."""
    # the kernel frees the lock when its holder dies, so a crash leaves nothing to clean up
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # without locks, several processes may make the same file, each atomically
            if error.errno not in NO_LOCKS:
                raise
        yield


def make_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path`; if it does not exist, `make` writes it while other processes wait.

    Args:
        path: File or folder.
        make: Writes to a temporary path, which becomes `path` afterwards.
    """
    if not path.exists():
        with lock(path):
            if not path.exists():
                temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
                try:
                    make(temporary)
                    replace_atomic(temporary, path)
                finally:
                    _remove(temporary)
    return path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def fingerprint(paths: Iterable[Path], about: str = "") -> str:
    """Return 16 hex digits that depend on names, sizes and times of the files, and on `about`."""
    digest = hashlib.sha256(about.encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def drop_checkpoints(runtime: Runtime, digest: str) -> None:
    """Delete the checkpoints of a stack whose first trial has this digest; call it after their rows are written."""
    if runtime.checkpoints is not None:
        for pattern in (f"{digest}*.ckpt", f".{digest}*"):  # and temporary files of a killed writer
            for path in Path(runtime.checkpoints).glob(pattern):
                with suppress(OSError):  # the end of the sweep deletes the rest
                    path.unlink()
