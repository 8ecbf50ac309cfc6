"""Augmentation policies as batched tensor operations with a strength in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from .registry import Registry

Augmentation = Callable[[Tensor, float, Generator], Tensor]
AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


@AUGMENTATIONS.register("none")
def none(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return the images as they are."""
    return x


@AUGMENTATIONS.register("shift")
def shift(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Shift each image by whole pixels with probability `strength`.

    A shifted image moves by up to 1/8 of its side in each direction, all displacements equally likely (no move among
    them); the border is repeated.

    Args:
        x: Images [n, channels, height, width].
        strength: Probability of a shift.
        generator: Source of randomness, on the device of `x`.

    Returns:
        Images of the same shape and dtype.
    """
    if strength == 0:
        return x
    n, _, height, width = x.shape
    reach = max(1, round(height / 8))
    moves = torch.randint(0, 2 * reach + 1, (n, 2), generator=generator, device=x.device)
    stays = torch.rand(n, generator=generator, device=x.device) >= strength
    moves[stays] = reach
    windows = pad(x, (reach,) * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=x.device), :, moves[:, 0], moves[:, 1]]
