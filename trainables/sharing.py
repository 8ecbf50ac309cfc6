"""Files that the workers of a run share: the first that needs one makes it, the others wait and read."""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path


def made_once(path: Path, write: Callable[[Path], object]) -> Path:
    """Return `path` after `write(temporary path)` has made it, unless it is there already.

    Whole or not at all: a worker that dies leaves neither a part of the file nor the lock.
    """
    with _locked(path):
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            try:
                write(temporary)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    return path


@contextmanager
def _locked(path: Path) -> Generator[None]:
    # the kernel frees the lock when its holder dies
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
