"""Retries of storage that is away for a while: which errors pass, and for how long to try."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import TypeVar

from sweeper.backoff import Backoff
from sweeper.errors import StorageError

T = TypeVar("T")

READING = 10.0
"""Seconds for which a command that only reads tries again."""
BACKOFF = Backoff(0.2, 8.0)

_FULL = {errno.ENOSPC, errno.EDQUOT}
# errors of a mounted file system whose server is away
_PASSING = {
    errno.EAGAIN, errno.EINTR, errno.EIO, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED,
    errno.ENOTCONN,
}  # fmt: skip
_FULL_TEXT = re.compile(
    r"os error (28|122)\b|No space left on device|Disk quota exceeded|database or disk is full", re.I
)
_REFUSED = re.compile(
    r"ACCESS_DENIED|ACCESS_KEY|NO_SUCH_BUCKET|SIGNATURE|INVALID_CLIENT_TOKEN|CREDENTIAL|PERMISSION_DENIED"
    r"|UNAUTHENTICATED|HTTP status 40[013]|bucket does not exist",
    re.I,
)


def patience() -> float:
    """Return for how many seconds a sweep tries again: `SWEEPER_STORAGE_SECONDS`, or 120.

    Raises:
        StorageError: The variable holds no number.
    """
    text = os.environ.get("SWEEPER_STORAGE_SECONDS", "120")
    try:
        return max(0.0, float(text))
    except ValueError:
        raise StorageError(f"SWEEPER_STORAGE_SECONDS must be a number of seconds, got {text!r}") from None


def is_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that a disk or quota is full."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(getattr(e, "errno", None) in _FULL or _FULL_TEXT.search(str(e)) for e in chain)


def is_passing(error: OSError, remote: bool) -> bool:
    """Whether another attempt may succeed."""
    if isinstance(error, FileNotFoundError | PermissionError) or is_full(error):
        return False
    return not _REFUSED.search(str(error)) if remote else error.errno in _PASSING


def retry(do: Callable[[], T], seconds: float, remote: bool) -> T:
    """Return what `do` returns; call it again after an error that passes.

    Args:
        do: Reads or writes; a failed call leaves no part of a file.
        seconds: No attempt begins later.
        remote: Whether it speaks to a store over the network.

    Raises:
        OSError: The error of the last attempt.
    """
    return BACKOFF.call(do, _passing(remote), lambda s: (s.seconds_since_start or 0.0) + s.upcoming_sleep > seconds)


def restart(do: Callable[[], T], seconds: float) -> T:
    """Return what `do` returns; start it again when it fails because a mounted folder is away for a moment.

    Args:
        do: May take hours before it fails.
        seconds: Longest sum of the pauses.

    Raises:
        OSError: The error of the last attempt.
    """
    return BACKOFF.call(do, _passing(remote=False), lambda s: s.idle_for + s.upcoming_sleep > seconds)


def _passing(remote: bool) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, OSError) and is_passing(error, remote)


def line(error: BaseException) -> str:
    """Return an error as one line of bounded length."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
