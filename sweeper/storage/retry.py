"""Storage that is away for a while: tried again with back-off and jitter for a bounded time."""

from __future__ import annotations

import errno
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from sweeper.errors import StorageError

T = TypeVar("T")

READING = 10.0
"""Seconds for which a command that only reads tries again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 8.0

_FULL = {errno.ENOSPC, errno.EDQUOT}
# what a mounted file system says when its server is away
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
    """Whether an error, or one that it came from, says that a disk or quota is full."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.append(found)
        found = found.__cause__ or found.__context__
    return any(getattr(e, "errno", None) in _FULL or _FULL_TEXT.search(str(e)) for e in chain)


def is_passing(error: OSError, remote: bool) -> bool:
    """Whether it makes sense to try again."""
    if isinstance(error, FileNotFoundError | PermissionError) or is_full(error):
        return False
    return not _REFUSED.search(str(error)) if remote else error.errno in _PASSING


def retried(do: Callable[[], T], seconds: float, remote: bool) -> T:
    """Return what `do` returns; where it fails for a passing reason it is called again for so many seconds.

    Args:
        do: What may fail; it leaves nothing torn.
        seconds: No attempt begins after that time.
        remote: Whether it speaks to a store over the network.

    Raises:
        OSError: Of the last attempt.
    """
    end, pause = time.monotonic() + seconds, FIRST_PAUSE
    while True:
        try:
            return do()
        except OSError as error:
            if not is_passing(error, remote) or time.monotonic() + pause > end:
                raise
        # many workers notice at once that a store is away: they do not come back at once
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE)


def begun_again(do: Callable[[], T], seconds: float) -> T:
    """Return what `do` returns; where it fails because a mounted folder is away for a moment it is begun again.

    Args:
        do: What may take hours before it fails.
        seconds: Sum of the pauses.

    Raises:
        OSError: Of the last attempt.
    """
    pause, left = FIRST_PAUSE, seconds
    while True:
        try:
            return do()
        except OSError as error:
            if not is_passing(error, remote=False) or pause > left:
                raise
        time.sleep(pause)
        left -= pause
        pause = min(2 * pause, LONGEST_PAUSE)


def line(error: BaseException) -> str:
    """Return an error as one line of bounded length."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
