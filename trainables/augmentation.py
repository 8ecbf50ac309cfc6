"""Augmentation policies as batched tensor operations with a strength in [0, 1]."""

from __future__ import annotations

import math
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
    """Shift each image by whole pixels; the border is repeated.

    The displacement in each direction is uniform in +-strength x 1/16 of the height, rounded to one of the two
    neighbouring whole pixels at random and without bias, so that every strength has an effect on small images too:
    at strength 1, 44 % of 8x8 images move by a pixel, and 32x32 images move by up to 2.

    Args:
        x: Images [n, channels, height, width].
        strength: In [0, 1].
        generator: Source of randomness, on the device of `x`.

    Returns:
        Images of the same shape and dtype.
    """
    if strength == 0:
        return x
    n, _, height, width = x.shape
    reach = math.ceil(height / 16)
    draws = torch.rand(2, n, 2, generator=generator, device=x.device)
    displacement = (2 * draws[0] - 1) * strength * height / 16
    moves = (torch.floor(displacement + draws[1]).long() + reach).clamp(0, 2 * reach)
    windows = pad(x, (reach,) * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=x.device), :, moves[:, 0], moves[:, 1]]
