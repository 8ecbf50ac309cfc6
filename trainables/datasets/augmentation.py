"""Augmentation policies as batched tensor operations with a strength in [0, 1].

Images are normalised floats, so that the values of black and white are unknown; each policy says how it treats values.
All draws come from the given generator, on its device. No operation waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from trainables.datasets.randaugment import randaugment, saturate, scale_about
from trainables.registry import Registry

Images = Callable[[Tensor, float, Generator], Tensor]
Mixing = Callable[[Tensor, Tensor, float, Generator], tuple[Tensor, Tensor]]

SMOOTHING = 0.2  # share of a target that is spread over all classes at strength 1


@dataclass(frozen=True)
class Augmentation:
    """One policy.

    Attributes:
        description: One sentence on its effect.
        images: (images, strength, generator) -> images, if it changes images only.
        mixing: (images, targets [n, classes], strength, generator) -> both, if it changes targets too.
        source: Paper.

    Raises:
        ValueError: Not exactly one of `images` and `mixing` is given.
    """

    description: str
    images: Images | None = None
    mixing: Mixing | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if (self.images is None) == (self.mixing is None):
            raise ValueError("an augmentation must have exactly one of images and mixing")

    @property
    def mixes(self) -> bool:
        """Return whether it changes targets."""
        return self.mixing is not None


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


def check_policy(policy: str) -> tuple[Augmentation, ...]:
    """Return the entries of a policy: one name or several names joined by `+`, applied from left to right.

    Raises:
        UnknownName: A name is not registered.
    """
    return tuple(AUGMENTATIONS[name] for name in policy.split("+"))


def changes(policy: str, strength: float) -> bool:
    """Return whether a policy of this strength uses random numbers."""
    return strength > 0 and policy != "none"


def augment(
    policy: str, strength: float, x: Tensor, y: Tensor, classes: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return augmented images and targets; strength 0 returns both unchanged.

    Args:
        policy: Name in `AUGMENTATIONS`, or several joined by `+`.
        strength: In [0, 1], the same for each name.
        x: Images [n, channels, height, width], normalised.
        y: Labels, int64 [n].
        classes: Number of classes C.
        generator: Source of randomness, on the device of `x`.

    Returns:
        Images of the same shape and dtype, and targets: `y` itself, or class probabilities [n, C] in the images'
        dtype if a policy mixes or smooths labels. Partners come from all images of the call, so that the distribution
        does not depend on the batch size.

    Raises:
        UnknownName: A name is not registered.
    """
    entries = check_policy(policy)
    if strength == 0:
        return x, y
    target = y
    for entry in entries:
        if entry.images:
            x = entry.images(x, strength, generator)
        elif entry.mixing:
            if not target.is_floating_point():
                target = one_hot(target, classes).to(x.dtype)
            x, target = entry.mixing(x, target, strength, generator)
    return x, target


def _places(n: int, sides: Sequence[int], share: float, generator: Generator) -> list[Tensor]:
    # source indices of rows and columns, int64 [n, side]; some lie beyond the border. The displacement is uniform in
    # +-share of the side, rounded to a neighbouring pixel at random and without bias
    draws = torch.rand(2, n, 2, generator=generator, device=generator.device)
    places: list[Tensor] = []
    for axis, side in enumerate(sides):
        reach = min(math.ceil(side * share), side - 1)
        displacement = (2 * draws[0, :, axis] - 1) * share * side
        move = torch.floor(displacement + draws[1, :, axis]).long().clamp(-reach, reach)
        places.append(move[:, None] + torch.arange(side, device=draws.device))
    return places


def _gather_pixels(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    n, channels, _, width = x.shape
    flat = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1)
    return x.flatten(2).gather(2, flat.expand(-1, channels, -1)).view(x.shape)


def _draw_mirrored(n: int, strength: float, generator: Generator) -> Tensor:
    return torch.rand(n, 1, generator=generator, device=generator.device) < strength / 2


def none(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Return the images unchanged."""
    return x


def shift(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Shift each image by whole pixels; border pixels fill the gap.

    The displacement in each direction is uniform in +-strength x 1/16 of the side, rounded to one of the two
    neighbouring whole pixels at random and without bias. Every strength thus has an effect on small images too: at
    strength 1, 44 % of 8x8 images move by a pixel, and 32x32 images move by up to 2.
    """
    sides = x.shape[2:]
    rows, columns = (
        v.clamp(0, m - 1) for v, m in zip(_places(len(x), sides, strength / 16, generator), sides, strict=True)
    )
    return _gather_pixels(x, rows, columns)


def flip(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability strength / 2."""
    mirrored = _draw_mirrored(len(x), strength, generator)
    return torch.where(mirrored[:, :, None, None], x.flip(3), x)


def crop_flip(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Pad by reflection and crop at random, then mirror left to right with probability strength / 2.

    The displacement in each direction is uniform in +-strength x 1/8 of the side (4 pixels of 32), rounded as in
    `shift`.
    """
    sides = x.shape[2:]
    places = _places(len(x), sides, strength / 8, generator)
    rows, columns = ((m - 1) - ((m - 1) - v.abs()).abs() for v, m in zip(places, sides, strict=True))
    mirrored = _draw_mirrored(len(x), strength, generator)
    return _gather_pixels(x, rows, torch.where(mirrored, columns.flip(1), columns))


def colour(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Change brightness, contrast and saturation of each image, in this order.

    Brightness adds a number uniform in +-0.8 strength standard deviations. In photographs the mean lies about two
    standard deviations above black; there, it changes as if multiplied by 1 +- 0.4 strength. Contrast scales about the
    image's mean and saturation about its grey version, by factors uniform in 1 +- 0.4 strength. Images of one channel
    have no saturation.
    """
    draws = (2 * torch.rand(3, len(x), 1, 1, 1, generator=generator, device=x.device) - 1).to(x.dtype) * strength
    x = scale_about(x + 0.8 * draws[0], x.mean((1, 2, 3), keepdim=True) + 0.8 * draws[0], 1 + 0.4 * draws[1])
    return saturate(x, 1 + 0.4 * draws[2])


def beta(strength: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Return draws of Beta(strength, strength), float64 [*shape], on the generator's device.

    If G follows Gamma(a + 1) and U is uniform, G U^(1/a) follows Gamma(a). Logarithms prevent underflow at small a.
    """
    one = torch.full((2, *shape), strength + 1, dtype=torch.float64, device=generator.device)
    gamma = torch._standard_gamma(one, generator=generator)  # pyright: ignore
    uniform = torch.rand(one.shape, generator=generator, dtype=torch.float64, device=generator.device)
    log = torch.log(gamma) + torch.log1p(-uniform) / strength
    return torch.sigmoid(log[0] - log[1])


def _partner(n: int, generator: Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device)


def mixup(x: Tensor, target: Tensor, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with those of a partner: lambda x + (1 - lambda) x', lambda ~ Beta(s, s)."""
    share, partner = beta(strength, (len(x),), generator).to(x.dtype), _partner(len(x), generator)
    wide = share[:, None, None, None]
    return wide * x + (1 - wide) * x[partner], _mix(target, partner, share)


def cutmix(x: Tensor, target: Tensor, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of a partner into each image; mix targets by the shares of pixels.

    The sides of the box are sqrt(1 - lambda) times those of the image, lambda ~ Beta(s, s). Its centre is uniform over
    the image, whose border clips the box.
    """
    n, _, *sides = x.shape
    side = torch.sqrt(1 - beta(strength, (n,), generator))
    partner = _partner(n, generator)
    centre = torch.rand(2, n, generator=generator, dtype=torch.float64, device=generator.device)
    inside: list[Tensor] = []
    for axis, size in enumerate(sides):
        start, length = torch.floor(centre[axis] * size), torch.floor(side * size)
        first = torch.floor(start - length / 2)[:, None]
        pixel = torch.arange(size, device=x.device)
        inside.append((pixel >= first) & (pixel < first + length[:, None]))
    pasted = inside[0].sum(1) * inside[1].sum(1)
    box = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
    share = (1 - pasted.double() / (sides[0] * sides[1])).to(x.dtype)
    return torch.where(box, x[partner], x), _mix(target, partner, share)


def _mix(target: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    return share[:, None] * target + (1 - share)[:, None] * target[partner]


def label_smoothing(x: Tensor, target: Tensor, strength: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Spread eps = 0.2 strength of each target evenly over all classes: (1 - eps) target + eps / C."""
    eps = SMOOTHING * strength
    return x, (1 - eps) * target + eps / target.shape[1]


_RESNET = "He et al. 2016, arXiv 1512.03385, section 4.2"
for _name, _entry in {
    "none": Augmentation("Leaves the images as they are.", none),
    "shift": Augmentation("Shifts each image by whole pixels, by up to 1/16 of its side.", shift),
    "flip": Augmentation("Mirrors images left to right, with probability strength / 2.", flip),
    "crop_flip": Augmentation(
        "Crops at random after padding by 1/8 of the side, then mirrors as `flip` does.", crop_flip, source=_RESNET
    ),
    "colour": Augmentation(
        "Changes brightness, contrast and saturation.", colour, source="Howard 2013, arXiv 1312.5402"
    ),
    "randaugment": Augmentation(
        "Applies two of 14 random operations, of magnitude `strength`.", randaugment, source="arXiv 1909.13719"
    ),
    "mixup": Augmentation("Mixes pairs of images and their labels.", mixing=mixup, source="arXiv 1710.09412"),
    "cutmix": Augmentation(
        "Pastes a box of another image; labels mix by area.", mixing=cutmix, source="arXiv 1905.04899"
    ),
    "label_smoothing": Augmentation(
        "Spreads 20 % of the target over all classes at strength 1.", mixing=label_smoothing, source="arXiv 1512.00567"
    ),
}.items():
    AUGMENTATIONS.add(_name, _entry)
