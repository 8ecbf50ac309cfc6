"""Gram matrices of the inputs of a model's linear layers, for RegMean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainables.merging.formulas import Gram
from trainables.models.heads import head_of, outputs_of
from trainables.models.tensors import aliases

BATCH, NUMBERS = 256, 2**24  # examples of a forward pass; for text also numbers in its logits


@torch.no_grad()
def gram_matrices(model: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> dict[str, Gram]:
    """Return E x x^T of the inputs of every linear layer, in evaluation mode.

    Linear layers are torch's `Linear` and transformers' `Conv1D`, without those whose weight another module shares. The
    mean is over all inputs of the layer: over examples, and over tokens where it runs on each.

    Args:
        model: Module of the architecture; its own weights stay unchanged.
        weights: State dict at which to evaluate.
        x: Inputs [n, ...] of the model, on the weights' device.

    Returns:
        Name of the weight -> its Gram matrix; layers that did not run have none.

    Raises:
        ValueError: No inputs.

    Source: Jin et al. 2022, arXiv 2212.09849, section 3.2.
    """
    if not len(x):
        raise ValueError("Gram matrices need at least one input, got 0")
    tied = aliases(model)
    shared = {*tied, *tied.values()}
    layers: dict[str, tuple[nn.Module, int]] = {}
    for name, module in cast(Iterable[tuple[str, nn.Module]], model.named_modules()):
        axis = _input_axis(module)
        if axis is not None and f"{name}.weight" not in shared:
            layers[f"{name}.weight"] = module, axis
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(key: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).double()
        sums[key] = sums[key] + rows.T @ rows if key in sums else rows.T @ rows
        counts[key] = counts.get(key, 0) + len(rows)

    handles = [module.register_forward_pre_hook(partial(add, key)) for key, (module, _) in layers.items()]
    try:
        model.eval()
        for part in torch.split(x, _batch(model, x)):
            functional_call(model, dict(weights), (part,), tie_weights=False)
    finally:
        for handle in handles:
            handle.remove()
    return {key: Gram(total / counts[key], layers[key][1]) for key, total in sums.items()}


def _batch(model: nn.Module, x: Tensor) -> int:
    if x.is_floating_point():
        return BATCH
    # tokens, whose logits are large
    return max(1, min(BATCH, NUMBERS // (x.shape[1] * outputs_of(model, head_of(model)))))


def _input_axis(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return 1
    # by name, because transformers is optional
    return 0 if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None
