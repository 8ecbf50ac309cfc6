"""Diagonal Fisher information of a classifier's parameters, for Fisher-weighted merging."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import log_softmax

EXACT_CLASSES = 10
CHUNK = 1 << 24  # gradient entries held at once

Gradient = Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]]


def diagonal_fisher(
    model: nn.Module, weights: Mapping[str, Tensor], x: Tensor, generator: Generator | None = None
) -> dict[str, Tensor]:
    """Return E_x E_{y ~ p(y|x)} (d log p(y|x) / d theta)^2 for every trained parameter, in evaluation mode.

    The expectation over labels is exact for up to ten classes; for more classes, one label is drawn per image.
    Of a text it is that of a whole sequence, with one draw per token.

    Args:
        model: Module of the architecture; its own weights stay unchanged.
        weights: State dict at which to evaluate.
        x: Images or sequences [n, ...] on the weights' device; the mean is over them.
        generator: Draws the labels of more than ten classes; on the CPU.

    Returns:
        Parameter name (both names of a shared one) -> Fisher of its shape, units 1/parameter^2.

    Raises:
        ValueError: No images, or more than ten classes without a generator.

    Source: Matena & Raffel 2021, arXiv 2111.09832, section 2.2: labels drawn from the model, not those of the data.
    """
    if not len(x):
        raise ValueError("a Fisher needs at least one image, got 0")
    model.eval()
    home = _first_names(model)
    parameters = {n: weights[n].detach() for n in dict.fromkeys(home.values())}
    fixed = {n: v.detach() for n, v in weights.items()}

    def log_p(chosen: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        entries = {n: chosen[home[n]] if n in home else v for n, v in fixed.items()}
        logits = functional_call(model, entries, (image[None],), tie_weights=False)[0]
        rows = logits.reshape(-1, logits.shape[-1])
        # the tokens of a sequence are drawn independently given those before them, so that squares of sums suffice
        return log_softmax(rows, 1).gather(1, label.reshape(-1, 1)).sum()

    total = {n: torch.zeros_like(v) for n, v in parameters.items()}
    size = max(1, CHUNK // sum(v.numel() for v in parameters.values()))
    gradients = cast(Gradient, vmap(grad(log_p), in_dims=(None, 0, 0)))
    # vmap does not support the CPU's fused attention
    with sdpa_kernel(SDPBackend.MATH):
        for images in torch.split(x, size):
            for labels, shares in _labels(model, weights, images, generator):
                for name, g in gradients(parameters, images, labels).items():
                    total[name] += torch.einsum("n,n...->...", shares.to(g.dtype), g.square())
    return {n: total[first] / len(x) for n, first in home.items()}


def _first_names(model: nn.Module) -> dict[str, str]:
    """Return every name of a trained parameter -> its first name; a shared parameter has several."""
    first = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    return {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False) if id(p) in first}


def _labels(
    model: nn.Module, weights: Mapping[str, Tensor], images: Tensor, generator: Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield labels [n], or tokens [n, context], with their shares [n] of the expectation."""
    with torch.no_grad():
        p = functional_call(model, dict(weights), (images,), tie_weights=False).softmax(-1)
    if p.ndim == 2 and p.shape[1] <= EXACT_CLASSES:
        for label in range(p.shape[1]):
            yield torch.full((len(p),), label, device=p.device), p[:, label]
        return
    if generator is None:
        raise ValueError(
            f"a Fisher of more than {EXACT_CLASSES} classes needs a generator, got {p.shape[-1]} classes and none"
        )
    rows = p.reshape(-1, p.shape[-1]).cpu()
    drawn = torch.multinomial(rows, 1, generator=generator)[:, 0].view(p.shape[:-1])
    yield drawn.to(p.device), torch.ones(len(p), dtype=p.dtype, device=p.device)
