"""Exit codes, errors that end a command with one clear line, and shortages of the machine."""

from __future__ import annotations

import errno
from enum import IntEnum

_SHORT = {
    errno.EMFILE: "the service has no file descriptor left",
    errno.ENFILE: "the machine has no file descriptor left",
    errno.ENOMEM: "the machine has no memory left",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full for this account",
}
_NO_PROCESS = "the machine starts no further process"


class ExitCode(IntEnum):
    """Exit code of a command; `USAGE` is a bad spec or bad usage, `NO_SUCCESS` a sweep without a successful trial."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    NO_SUCCESS = 3
    INTERRUPTED = 130


class SpecError(ValueError):
    """A sweep cannot run as specified."""


class MissingFolderError(SpecError):
    """There is no folder of the name that the user gives."""


class StorageError(OSError):
    """A sweep cannot read or write its storage."""


class AwayError(SpecError):
    """A read-only command cannot reach a store."""


def shortage(error: BaseException | None) -> str:
    """Return which shortage of the machine caused an error, as a sentence; empty if something else did."""
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return _NO_PROCESS  # as the cause of another error, EAGAIN is a lock that another process holds
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _SHORT:
            return _SHORT[error.errno]
        error = error.__cause__ or error.__context__
    return ""
