"""Kills by Ray's memory monitor, made known to Tune as the end of one trial.

The monitor ends processes of a node that runs low on memory. Ray raises an error for that which Tune does not expect of
an actor, and lets the whole experiment fail.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError


class KilledForMemory(RayActorError):  # noqa: N818  (reads as what it says)
    """The process of a trial was ended because the memory of its node ran low."""


@contextmanager
def known_to_tune() -> Iterator[None]:
    """Let Tune take such a kill for the death of an actor, for the block.

    What is replaced is Ray's own and may be gone in another version: such a kill ends the sweep there.
    """
    real: Any = getattr(RayActorManager, "_actor_task_failed", None)
    if real is None:
        warnings.warn(
            f"ray {ray.__version__} is not known here: a trial that its memory monitor kills ends the sweep (resume "
            "continues it); reserve memory by resources.memory_per_rank",
            stacklevel=3,
        )
        yield
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = KilledForMemory(error_msg=first_line(exception))
        real(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = real


def first_line(error: OutOfMemoryError) -> str:
    """Return what happened, without the list of the node's processes that follows."""
    return str(error).partition("\n")[0]


def killed_for_memory(trial: Any) -> str:
    """Return what Ray said where a Tune trial ended by such a kill; empty where it ended otherwise."""
    file = trial.pickled_error_file
    if file is None:
        return ""
    try:
        error = pickle.loads(Path(file).read_bytes())  # written by this process a moment ago
    except Exception:  # an error of anybody's class, which may not be read back
        return ""
    return str(error) if isinstance(error, KilledForMemory) else ""
