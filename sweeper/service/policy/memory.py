"""Memory of the sweeps' processes on the server: the limit of each, and how many inline sweeps run at a time.

The kernel enforces RLIMIT_DATA: an allocation beyond it raises an error that ends one trial or sweep, not the machine.
RLIMIT_AS would not help, because a process that loads torch maps several times the memory that it writes.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.8
"""Share of the machine's memory for all inline sweeps together."""
LEAST = 4 << 30
"""Smallest default limit [bytes]; torch, a small network and its threads map 2.3 GB and write 1 GB."""
_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Room:
    """Memory for inline sweeps.

    Attributes:
        each: Limit of one process [bytes]; 0 is no limit.
        sweeps: Sweeps that may run at a time.
    """

    each: int = 0
    sweeps: int = 1_000_000


def share_memory(per_sweep: int | None, running: int, machine: int | None = None) -> Room:
    """Return the memory for inline sweeps.

    Args:
        per_sweep: Memory per sweep [bytes]; 0 is no limit, None a share of the machine's.
        running: Sweeps that may run at a time.
        machine: Memory of the machine [bytes]; None measures it.
    """
    if per_sweep == 0:
        return Room()
    usable = int(SHARE * (machine_memory() if machine is None else machine))
    each = per_sweep or max(LEAST, usable // running)
    return Room(each, max(1, usable // each))


def machine_memory() -> int:
    """Return the memory of the machine, or of the container if smaller [bytes]."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in _CGROUPS:
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        memory = min(memory, int(text)) if text.isdigit() else memory
    return memory


def limit_memory(most: int) -> None:
    """Make allocations of this process fail beyond a number of bytes; 0 lifts the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most or resource.RLIM_INFINITY
    bound = hard != resource.RLIM_INFINITY and (wanted == resource.RLIM_INFINITY or wanted > hard)
    resource.setrlimit(resource.RLIMIT_DATA, (hard if bound else wanted, hard))
