"""Data sets: the registry, images and their augmentation.

Space files import `DATASETS` and `Data` from here; the modules load when a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.datasets.dataset import Data, DataError
    from trainables.datasets.load import DATASETS

__all__ = ["DATASETS", "Data", "DataError"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("trainables.datasets.load"), name)
