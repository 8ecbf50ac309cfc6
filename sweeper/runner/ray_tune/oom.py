"""Translation of kills by Ray's memory monitor, so that Tune ends only the killed trial.

The monitor kills processes of a node that runs low on memory. Ray raises an error that Tune does not expect of an
actor, and the whole experiment fails.
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


class MemoryKill(RayActorError):  # noqa: N818  (reads as what it says)
    """Ray killed the process of a trial because its node ran low on memory."""


@contextmanager
def translate_memory_kills() -> Iterator[None]:
    """Report such a kill to Tune as the death of an actor, inside the block.

    It replaces a private method of Ray. Another version may lack that method; there, such a kill ends the sweep.
    """
    real: Any = getattr(RayActorManager, "_actor_task_failed", None)
    if real is None:
        warnings.warn(
            f"ray {ray.__version__} is not supported: if its memory monitor kills a trial, the sweep ends (resume "
            "continues it); reserve memory by resources.memory_per_rank",
            stacklevel=3,
        )
        yield
        return

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = MemoryKill(error_msg=first_line(exception))
        real(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = real


def first_line(error: OutOfMemoryError) -> str:
    """Return the first line of an error, without the list of the node's processes."""
    return str(error).partition("\n")[0]


def describe_memory_kill(trial: Any) -> str:
    """Return Ray's message if such a kill ended a Tune trial; else empty."""
    file = trial.pickled_error_file
    if file is None:
        return ""
    try:
        error = pickle.loads(Path(file).read_bytes())  # this process has just written it
    except Exception:  # an error of any class, which may fail to unpickle
        return ""
    return str(error) if isinstance(error, MemoryKill) else ""
