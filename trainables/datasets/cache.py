"""The cache folder: unpacked archives and decoded images, made once by whichever process comes first."""

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
"""What a mounted file system without locks answers."""


class LostCheckpoint(UserWarning):
    """A checkpoint that cannot be used, so that the trial starts anew, or cannot be written, so that it would."""


def cache_folder(runtime: Runtime) -> Path:
    """Return `runtime.cache`, or `sweeper` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    if runtime.cache is not None:
        return Path(runtime.cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sweeper"


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock of `path`, a file beside it, for the block."""
    # the kernel frees the lock when its holder dies, so a crash leaves nothing to clean up
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # a mounted file system without locks: several may make the same file, each as a whole
            if error.errno not in NO_LOCKS:
                raise
        yield


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return `path` after `make` wrote it, unless it is there already; processes wait for the one that makes it.

    Args:
        path: File or folder.
        make: Writes to the path that it is given, which becomes `path` when it returns.
    """
    if not path.exists():
        with locked(path):
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
    """Return 16 hex digits that change with the names, sizes or times of the files, or with `about`."""
    digest = hashlib.sha256(about.encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def drop_checkpoints(runtime: Runtime, digest: str) -> None:
    """Remove the checkpoints of trials whose first one has this digest; to be called when they are written."""
    if runtime.checkpoints is not None:
        for pattern in (f"{digest}*.ckpt", f".{digest}*"):  # and what a killed writer left
            for path in Path(runtime.checkpoints).glob(pattern):
                with suppress(OSError):  # what is left is removed at the end of the sweep
                    path.unlink()
