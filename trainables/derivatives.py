"""A model's loss as a pure function of its trained parameters, and the gradients of many small batches of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

Loss = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]

# gradients held at once while they are mapped, in numbers (512 MiB in float32), and examples mapped at once
CHUNK_NUMBERS, CHUNK_EXAMPLES = 2**27, 256


@contextmanager
def differentiating(model: nn.Module, training: bool) -> Generator[None]:
    """Run the block with the model in training or evaluation mode and operators that differentiate twice.

    The modes of all submodules come back as they were.
    """
    modes = {m: m.training for m in model.modules()}
    model.train(training)
    try:
        # fused attention has no second derivative and does not map
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def loss_of(model: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str]) -> Loss:
    """Return the mean cross-entropy [nat] as a function (parameters `names`, inputs, targets) that changes nothing.

    Args:
        model: Module of the architecture; its own weights do not matter.
        weights: State dict that holds everything but `names`.
        names: Trained parameters, as `named_parameters` calls them.
    """
    # a parameter shared by two layers has two names in the state dict, and only one of them may be given
    own = [n for n, _ in model.named_parameters() if n not in set(names)]
    fixed = {n: weights[n].detach() for n in own + [n for n, _ in model.named_buffers() if n in weights]}

    def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        # copies: BatchNorm in training mode writes into its buffers
        rest = {n: v.clone() for n, v in fixed.items()}
        return cross_entropy(functional_call(model, (parameters, rest), (x,)), target)

    return loss


def _flat_rows(gradients: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.cat([gradients[n].flatten(1) for n in names], 1)


def micro_gradients(
    loss: Loss, parameters: dict[str, Tensor], x: Tensor, target: Tensor, mapped: bool = True
) -> Iterator[Tensor]:
    """Yield the gradients of the micro-batches x [n, b, ...], targets [n, b] or [n, b, C] as rows [k, P], in order.

    Args:
        loss: From `loss_of`.
        parameters: Where; P numbers in all, in the order of the mapping.
        x: Inputs.
        target: Labels, or probabilities of the classes.
        mapped: Whether micro-batches may go through `vmap`; BatchNorm in training mode does not.
    """
    n, b = x.shape[:2]
    gradient, names = grad(loss), list(parameters)
    if not mapped:
        for i in range(n):
            one = gradient(parameters, x[i], target[i])
            yield _flat_rows({k: v[None] for k, v in one.items()}, names)
        return
    size = sum(p.numel() for p in parameters.values())
    chunk = max(1, min(CHUNK_NUMBERS // size, CHUNK_EXAMPLES // b))
    every = vmap(gradient, in_dims=(None, 0, 0), randomness="different")
    for xs, targets in zip(torch.split(x, chunk), torch.split(target, chunk), strict=True):
        yield _flat_rows(every(parameters, xs, targets), names)
