"""The head of a model, its final classifier: name, input and replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

# modules in which timm, torchvision and most users keep the classifier
NAMES = ("head", "fc", "classifier", "heads")


def head_of(model: nn.Module, classes: int | None = None) -> str:
    """Return the module name of the final classifier: a linear layer or a 1x1 convolution.

    The search takes timm's `get_classifier`, else the last such layer in `head`, `fc`, `classifier` or `heads`, else
    the last linear layer of the model.

    Args:
        model: Any classifier.
        classes: Number of logits; if given, only layers with this number of outputs count.

    Raises:
        ValueError: The model has no such layer, or several final classifiers.
    """
    modules = list(cast(Iterable[tuple[str, nn.Module]], model.named_modules()))
    names = {id(m): n for n, m in modules}
    for part in _parts(model):
        found = [m for m in part.modules() if _classifies(m, classes)]
        if found:
            return names[id(found[-1])]
    linear = [n for n, m in modules if isinstance(m, nn.Linear) and _classifies(m, classes)]
    if not linear:
        wanted = "" if classes is None else f" with {classes} outputs"
        raise ValueError(f"a model must end in a linear layer{wanted} to have its head replaced or its features read")
    return linear[-1]


def _parts(model: nn.Module) -> list[nn.Module]:
    classifier = getattr(model, "get_classifier", None)
    if callable(classifier):
        part = cast(Callable[[], object], classifier)()
        if isinstance(part, (tuple, list, nn.ModuleList, nn.ModuleDict)):
            raise ValueError("a model must have one head, this one has several; choose its plain variant")
        return [part] if isinstance(part, nn.Module) else []
    return [part for n in NAMES if isinstance(part := getattr(model, n, None), nn.Module)]


def _classifies(module: nn.Module, classes: int | None) -> bool:
    if isinstance(module, nn.Linear):
        return classes in (None, module.out_features)
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return classes in (None, module.out_channels)
    return False


def outputs_of(model: nn.Module, head: str) -> int:
    """Return the number of outputs of the layer `head`, from `head_of`."""
    layer = model.get_submodule(head)
    return layer.out_features if isinstance(layer, nn.Linear) else cast(nn.Conv2d, layer).out_channels


def replace_head(model: nn.Module, head: str, classes: int) -> None:
    """Replace the layer `head` by a new one with `classes` outputs and torch's initial weights."""
    layer = model.get_submodule(head)
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    if isinstance(layer, nn.Linear):
        layer.out_features = classes
    else:
        layer.out_channels = classes
    layer.weight = nn.Parameter(layer.weight.new_empty(classes, *layer.weight.shape[1:]))
    if layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.new_empty(classes))
    layer.reset_parameters()


@torch.no_grad()
def penultimate(model: nn.Module, weights: Mapping[str, Tensor], x: Tensor, head: str) -> Tensor:
    """Return the input of the layer `head` [n, features] for inputs `x` in evaluation mode.

    The input of a convolution is averaged over positions, that of a language model over tokens.

    Args:
        model: Module of the architecture; its own weights stay unchanged.
        weights: State dict to evaluate.
        x: Images [n, channels, height, width] or tokens [n, context] on the weights' device.
        head: Module name, from `head_of`.

    Raises:
        ValueError: The head did not run once on [n, ...] inputs.
    """
    seen: list[Tensor] = []

    def record_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = model.get_submodule(head).register_forward_pre_hook(record_input)
    try:
        model.eval()
        functional_call(model, dict(weights), (x,), tie_weights=False)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].ndim not in (2, 3, 4) or len(seen[0]) != len(x):
        raise ValueError(f"head {head!r} must run once, on [n, features], got {[tuple(s.shape) for s in seen]}")
    return seen[0] if seen[0].ndim == 2 else seen[0].mean(1) if seen[0].ndim == 3 else seen[0].mean((2, 3))
