"""Networks: the registry of models, their weights and heads.

Space files import `MODELS` and the networks from here; the modules load when a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.models.networks import ResNet18Small, SmallCNN
    from trainables.models.registry import MODELS

__all__ = ["MODELS", "ResNet18Small", "SmallCNN"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("trainables.models.registry"), name)
