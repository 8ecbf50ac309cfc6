"""File descriptors and processes: how many this process may have, and whether an error is a shortage of them."""

from __future__ import annotations

import errno
import resource

MOST = 1 << 16
"""No service needs more descriptors than this."""
_SHORT = {
    errno.EMFILE: "the service has no file descriptor left",
    errno.ENFILE: "the machine has no file descriptor left",
    errno.ENOMEM: "the machine has no memory left",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full for this account",
}
_NO_PROCESS = "the machine starts no further process"


def raise_limit() -> int:
    """Return how many descriptors this process may have, after raising that as far as it may without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft  # some systems allow fewer than they say
        return wanted
    return MOST if soft == resource.RLIM_INFINITY else soft


def shortage(error: BaseException | None) -> str:
    """Return what there is too little of for now, in a sentence; empty where an error has another cause."""
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return _NO_PROCESS  # as a cause of another error it is a lock that somebody holds
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _SHORT:
            return _SHORT[error.errno]
        error = error.__cause__ or error.__context__
    return ""
