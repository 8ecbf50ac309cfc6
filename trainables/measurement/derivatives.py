"""Loss as a pure function of the trained parameters: gradients of micro-batches, Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.models.losses import mean_loss

Loss = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]
Product = Callable[[Tensor], Tensor]

# for more parameters, vmap slows a CPU down: 2.0 s against 0.9 s for 16 examples of ResNet-18
_MAPPED_NUMBERS = 2**20
# limits of one vmap call: numbers in its gradients (512 MiB in float32), and examples
CHUNK_NUMBERS, CHUNK_EXAMPLES = 2**27, 256
# part of the examples with one second-order graph: input numbers (images x channels x height x width), least images; a
# token counts as a vector
_PART_NUMBERS, _PART_LEAST, _TOKEN_NUMBERS = 2**18, 8, 256


@contextmanager
def twice_differentiable(model: nn.Module, training: bool) -> Generator[None]:
    """Run the block with the model in training or evaluation mode and twice differentiable operators.

    Convolutions use all 24 bits of float32, which cuDNN shortens by default, because excess barriers are small
    differences. The block restores the modes of all submodules.
    """
    modes = {m: m.training for m in model.modules()}
    model.train(training)
    shortened = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        # fused attention supports neither second derivatives nor vmap
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = shortened
        for module, mode in modes.items():
            module.training = mode


def loss_of(model: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str]) -> Loss:
    """Return the mean cross-entropy [nat] as a pure function of (parameters `names`, inputs, targets).

    Its value is float64, so that small differences of losses stay exact; the forward pass keeps the weights' dtype.

    Args:
        model: Module of the architecture; its own weights do not matter, and its device is that of the loss.
        weights: State dict with values for everything except `names`, on any device.
        names: Trained parameters, named as in `named_parameters`.
    """
    # a parameter of two layers has two names in the state dict, but functional_call accepts only one of them
    frozen = [n for n, _ in model.named_parameters() if n not in set(names)]
    place = next(model.parameters()).device
    fixed = {n: weights[n].detach().to(place) for n in frozen + [n for n, _ in model.named_buffers() if n in weights]}

    def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        # copies, because BatchNorm in training mode changes its buffers
        rest = {n: v.clone() for n, v in fixed.items()}
        logits = functional_call(model, (parameters, rest), (x,)).double()
        return mean_loss(logits, target.double() if target.is_floating_point() else target)

    return loss


def micro_gradients(
    loss: Loss, parameters: Mapping[str, Tensor], x: Tensor, target: Tensor, mapped: bool = True
) -> Iterator[Tensor]:
    """Yield the gradients of the micro-batches x [n, b, ...], targets [n, b] or [n, b, C] as rows [k, P], in order.

    Args:
        loss: From `loss_of`.
        parameters: Point in weight space; P numbers in the order of the mapping.
        x: Inputs.
        target: Labels or class probabilities.
        mapped: Whether `vmap` may be used; BatchNorm in training mode does not support it.
    """
    size = sum(p.numel() for p in parameters.values())
    mapped = mapped and (x.device.type != "cpu" or size <= _MAPPED_NUMBERS)
    chunk = max(1, min(CHUNK_NUMBERS // size, CHUNK_EXAMPLES // x.shape[1])) if mapped else 1
    # not torch.func.grad: its first call imports torch._dynamo, which takes longer than a small trial
    every = vmap(loss, in_dims=(0, 0, 0), randomness="different")
    for xs, targets in zip(torch.split(x, chunk), torch.split(target, chunk), strict=True):
        copies = {n: p.detach().expand(len(xs), *p.shape).requires_grad_() for n, p in parameters.items()}
        with torch.enable_grad():
            losses = (
                every(copies, xs, targets) if mapped else loss({n: p[0] for n, p in copies.items()}, xs[0], targets[0])
            )
        gradients = torch.autograd.grad(losses.sum(), list(copies.values()), materialize_grads=True)
        yield torch.cat([g.flatten(1) for g in gradients], 1)


class Objective:
    """A loss as a function of one flat vector w [P]: value, gradient and Hessian-vector products.

    Args:
        parts: Twice differentiable functions of w whose sum is the loss; only one graph exists at a time.
    """

    def __init__(self, parts: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.parts = parts

    @torch.no_grad()
    def value(self, w: Tensor) -> Tensor:
        """Return L(w), a scalar."""
        return torch.stack([part(w) for part in self.parts]).sum()

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return L(w) and g(w) [P]."""
        values: list[Tensor] = []
        total = torch.zeros_like(w)
        for part in self.parts:
            leaf = w.detach().requires_grad_()
            with torch.enable_grad():
                value = part(leaf)
            total += torch.autograd.grad(value, leaf)[0]
            values.append(value.detach())
        return torch.stack(values).sum(), total

    def hessian(self, w: Tensor) -> Product:
        """Return the function v [P] -> H(w) v [P].

        Source: Pearlmutter 1994, Neural Computation 6(1), as reverse over reverse differentiation.
        """
        if len(self.parts) == 1:
            return _linearise(self.parts[0], w)

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for part in self.parts:
                total += _linearise(part, w)(v)
            return total

        return product


def _linearise(part: Callable[[Tensor], Tensor], w: Tensor) -> Product:
    leaf = w.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(part(leaf), leaf, create_graph=True)
    return lambda v: torch.autograd.grad(gradient, leaf, v, retain_graph=True)[0]


def objective(
    model: nn.Module, weights: Mapping[str, Tensor], names: Sequence[str], x: Tensor, y: Tensor
) -> tuple[Objective, Tensor]:
    """Return the mean cross-entropy on (x [n, ...], y [n]) as an objective, and the w [P] of `weights`, on y's device.

    Args:
        model: Module of the architecture, run in evaluation mode; it stays unchanged.
        weights: State dict, on any device; its buffers and other parameters are fixed.
        names: Trained parameters, in the order of w.
        x: Inputs.
        y: Labels.
    """
    loss, shapes = loss_of(model, weights, names), [weights[n].shape for n in names]
    sizes, total = [s.numel() for s in shapes], len(y)

    def part(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        parameters = {n: v.view(s) for n, v, s in zip(names, torch.split(w, sizes), shapes, strict=True)}
        with twice_differentiable(model, training=False):
            return loss(parameters, x, y) * (len(y) / total)

    size = max(_PART_LEAST, _PART_NUMBERS // max(1, x[0].numel()))
    if not x.is_floating_point():
        size = max(1, _PART_NUMBERS // (x[0].numel() * _TOKEN_NUMBERS))
    parts = [partial(part, *pair) for pair in zip(torch.split(x, size), torch.split(y, size), strict=True)]
    return Objective(parts), torch.cat([weights[n].detach().flatten() for n in names]).to(y.device)
