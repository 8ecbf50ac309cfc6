"""A model's loss as a pure function of its trained parameters, and the gradients of many small batches of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
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
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
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


def micro_gradients(
    loss: Loss, parameters: Mapping[str, Tensor], x: Tensor, target: Tensor, mapped: bool = True
) -> Iterator[Tensor]:
    """Yield the gradients of the micro-batches x [n, b, ...], targets [n, b] or [n, b, C] as rows [k, P], in order.

    Args:
        loss: From `loss_of`.
        parameters: Where; P numbers in all, in the order of the mapping.
        x: Inputs.
        target: Labels, or probabilities of the classes.
        mapped: Whether micro-batches may go through `vmap`; BatchNorm in training mode does not.
    """
    size = sum(p.numel() for p in parameters.values())
    chunk = max(1, min(CHUNK_NUMBERS // size, CHUNK_EXAMPLES // x.shape[1])) if mapped else 1
    # torch.func.grad would do, but its first call imports torch._dynamo, which takes longer than a small trial
    every = vmap(loss, in_dims=(0, 0, 0), randomness="different")
    for xs, targets in zip(torch.split(x, chunk), torch.split(target, chunk), strict=True):
        k = len(xs)
        own = {n: p.detach().expand(k, *p.shape).requires_grad_() for n, p in parameters.items()}
        losses = every(own, xs, targets) if mapped else loss({n: p[0] for n, p in own.items()}, xs[0], targets[0])
        gradients = torch.autograd.grad(losses.sum(), list(own.values()), materialize_grads=True)
        yield torch.cat([g.flatten(1) for g in gradients], 1)
