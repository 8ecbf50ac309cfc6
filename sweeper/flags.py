"""Keys of a sweep that flags of the command line set."""

from __future__ import annotations

import argparse
from typing import Any

from .specfile import assignments

RUN_KEYS = (
    "trials", "sampler", "objective", "noise", "repeats", "seed", "stack", "threads", "device", "out", "smoke",
    "measure", "landscape", "plane", "deterministic", "prior", "enqueue", "max_memory", "max_step_time", "prune",
    "rungs",
)  # fmt: skip
MACHINE_KEYS = (
    "workers", "runner", "address", "resources", "max_failures", "checkpoint_steps", "max_seconds", "max_gpu_hours",
    "until_interval", "max_failed", "data", "download", "cache", "resident_share", "loader_workers",
)  # fmt: skip


def flags(args: argparse.Namespace, keys: tuple[str, ...]) -> dict[str, Any]:
    """Return those of the keys of a sweep that the command line gives."""
    found = {k: v for k in keys if (v := getattr(args, k)) is not None}
    if "resources" in found:
        found["resources"] = assignments(found["resources"], "--resources")
    return found
