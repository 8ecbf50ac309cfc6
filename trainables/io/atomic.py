"""Atomic writes: a file is written under a temporary name, synced to the disk, then renamed.

A reader never sees half a file. After a loss of power the file is the old one or the new one, never an empty one.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Content = bytes | memoryview | str | Callable[[Path], Any]
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM}
"""Errors of file systems that cannot sync a folder."""


def write_atomic(target: Path, content: Content, temporary: Path | None = None) -> None:
    """Write a file atomically; `target` keeps its old content if the write fails.

    Args:
        target: The file, in a folder that exists.
        content: Its content, or a function that writes to a given path.
        temporary: Path of the unfinished file on the same file system; by default a hidden name beside `target`.

    Raises:
        OSError: The file cannot be written or synced.
    """
    temporary = temporary or target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        replace_atomic(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def replace_atomic(source: Path, target: Path) -> None:
    """Sync a finished file or folder to the disk, then rename it.

    Raises:
        OSError: The sync or the rename fails.
    """
    if source.is_dir():
        os.sync()  # a folder may hold thousands of files; one call is faster than one each
    else:
        _sync(source, os.O_RDONLY)
    source.replace(target)
    try:
        _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
