"""Retries after temporary failures of storage: which errors pass, and how long to retry."""

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
"""Seconds during which a read-only command retries."""
BACKOFF = Backoff(0.2, 8.0)

_FULL = {errno.ENOSPC, errno.EDQUOT}
# errors of a mounted file system without its server
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
    """Return the seconds during which a sweep retries: `SWEEPER_STORAGE_SECONDS`, or 120.

    Raises:
        StorageError: The variable is not a number.
    """
    text = os.environ.get("SWEEPER_STORAGE_SECONDS", "120")
    try:
        return max(0.0, float(text))
    except ValueError:
        raise StorageError(f"SWEEPER_STORAGE_SECONDS must be a number of seconds, got {text!r}") from None


def is_full(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, is a full disk or quota."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return any(getattr(e, "errno", None) in _FULL or _FULL_TEXT.search(str(e)) for e in chain)


def is_passing(error: OSError, remote: bool) -> bool:
    """Return whether another attempt may succeed."""
    if isinstance(error, FileNotFoundError | PermissionError) or is_full(error):
        return False
    return not _REFUSED.search(str(error)) if remote else error.errno in _PASSING


def retry(do: Callable[[], T], seconds: float, remote: bool) -> T:
    """Return the result of `do`; call it again after temporary errors.

    Args:
        do: Reads or writes; a failed call leaves no partial file.
        seconds: No attempt starts later.
        remote: Whether `do` uses a store over the network.

    Raises:
        OSError: The error of the last attempt.
    """
    return BACKOFF.call(do, _passing(remote), lambda s: (s.seconds_since_start or 0.0) + s.upcoming_sleep > seconds)


def restart(do: Callable[[], T], seconds: float) -> T:
    """Return the result of `do`; start it again after temporary failures of a mounted folder.

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
