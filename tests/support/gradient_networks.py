"""Small networks and images whose gradients are known."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

N, SIZE, CLASSES = 240, 6, 4


def network(seed: int = 0) -> nn.Module:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


def images(n: int = N, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = Generator().manual_seed(seed)
    x = torch.randn(n, 1, SIZE, SIZE, generator=g, dtype=torch.float64)
    return x, torch.randint(CLASSES, (n,), generator=g)


def per_example(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Exact gradients [n, P] of every example, in evaluation mode."""
    weights = {n: p.detach() for n, p in model.named_parameters()}

    def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, w, (x[None],)), y[None])

    model.eval()
    rows = vmap(grad(loss), in_dims=(None, 0, 0))(weights, x, y)
    return torch.cat([rows[n].flatten(1) for n in weights], 1)


def names_of(model: nn.Module) -> list[str]:
    return [n for n, _ in model.named_parameters()]
