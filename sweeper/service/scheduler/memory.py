"""Memory of the sweeps' processes on the server's machine: what one may take, and how many run inline at a time.

The limit is the kernel's RLIMIT_DATA: an allocation beyond it fails with an error that ends one trial or one sweep, not
the machine. RLIMIT_AS is of no use, because a process that loads torch maps several times what it ever writes.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.8
"""Share of the machine's memory that sweeps of runner inline take together at most."""
LEAST = 4 << 30
"""Smallest default [bytes]: torch, a small network and its threads map 2.3 GB, and write 1 GB."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Room:
    """What sweeps of runner inline may take.

    Attributes:
        each: Memory of one process [bytes]; 0 is no limit.
        sweeps: How many run at a time.
    """

    each: int = 0
    sweeps: int = 1_000_000


def room(asked: int | None, running: int, machine: int | None = None) -> Room:
    """Return what sweeps of runner inline may take.

    Args:
        asked: Memory per sweep [bytes]; 0 is no limit, None a share of the machine's.
        running: Sweeps that run at a time.
        machine: Memory of the machine [bytes]; None asks it.
    """
    if asked == 0:
        return Room()
    usable = int(SHARE * (machine_memory() if machine is None else machine))
    each = asked or max(LEAST, usable // running)
    return Room(each, max(1, usable // each))


def machine_memory() -> int:
    """Return the memory that this process can have at most: the machine's, or its container's [bytes]."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUPS:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        found = min(found, int(text)) if text.isdigit() else found
    return found


def limit_memory(most: int) -> None:
    """Make allocations of this process fail beyond a number of bytes; 0 lifts the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most or resource.RLIM_INFINITY
    bound = hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard)
    resource.setrlimit(resource.RLIMIT_DATA, (hard if bound else wanted, hard))
