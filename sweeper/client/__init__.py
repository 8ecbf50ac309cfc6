"""Client of a sweep service: submits sweeps, follows them and reads their results, without torch and ray.

Python loads the names below when a program uses them: reading a run folder needs the models, not HTTP.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeper.client.client import Client
    from sweeper.client.transport import ClientError

_HOME = {"Client": "client", "ClientError": "transport"}

__all__ = ["Client", "ClientError"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
