"""RandAugment on batches: each operation runs once on the images that drew it and does not wait for the device.

Source: Cubuk et al. 2019, arXiv 1909.13719; operations and ranges are those of torchvision's `RandAugment`. Three
things differ. Images are normalised floats: operations that need black and white (posterise, solarise, equalise,
autocontrast) use the minimum and maximum of the image, brightness adds, and border pixels fill uncovered areas.
Autocontrast and equalise have no magnitude; the strength blends them with the image, so that strength 0 is the limit
of small strengths. The operation of an image is uniform over the 14; the counts in a batch are balanced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

OPERATIONS_PER_IMAGE = 2
LEVELS = 256

Operation = Callable[[Tensor, Tensor], Tensor]


def scale_about(x: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    """Return centre + factor (x - centre)."""
    return centre + factor * (x - centre)


def saturate(x: Tensor, factor: Tensor) -> Tensor:
    """Scale colours about the grey version; images without three channels stay unchanged."""
    if x.shape[1] != 3:
        return x
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    return scale_about(x, grey, factor)


def _affine(x: Tensor, rows: list[Tensor]) -> Tensor:
    # rows of the map from output to input, in pixels from the centre: [[xx, xy, dx], [yx, yy, dy]]
    height, width = x.shape[2:]
    xx, xy, dx, yx, yy, dy = rows
    theta = torch.stack(
        [xx, xy * height / width, 2 * dx / width, yx * width / height, yy, 2 * dy / height], dim=1
    ).view(-1, 2, 3)  # fmt: skip
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _geometry(slot: int, reach: float) -> Operation:
    def operation(x: Tensor, signed: Tensor) -> Tensor:
        one, zero = torch.ones_like(signed), torch.zeros_like(signed)
        rows = [one, zero, zero, zero, one, zero]
        rows[slot] = reach * signed
        if slot in (2, 5):  # the reach of a translation is a share of the side
            rows[slot] = rows[slot] * x.shape[3 if slot == 2 else 2]
        return _affine(x, rows)

    return operation


def _rotate(x: Tensor, signed: Tensor) -> Tensor:
    angle = signed * math.radians(30)
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    return _affine(x, [cos, -sin, zero, sin, cos, zero])


def _wide(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)


def _brightness(x: Tensor, signed: Tensor) -> Tensor:
    # a factor of 1 +- 0.9 would move a mean two standard deviations above black by this number
    return x + 1.8 * _wide(signed)


def _contrast(x: Tensor, signed: Tensor) -> Tensor:
    return scale_about(x, x.mean((1, 2, 3), keepdim=True), 1 + 0.9 * _wide(signed))


def _saturation(x: Tensor, signed: Tensor) -> Tensor:
    return saturate(x, 1 + 0.9 * _wide(signed))


def _sharpness(x: Tensor, signed: Tensor) -> Tensor:
    # the kernel of PIL's smooth filter
    channels = x.shape[1]
    kernel = x.new_ones(3, 3)
    kernel[1, 1] = 5
    smooth = conv2d(pad(x, (1, 1, 1, 1), mode="replicate"), (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    return scale_about(x, smooth, 1 + 0.9 * _wide(signed))


def _unit(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    return (x - low) / span, low, span


def _posterise(x: Tensor, signed: Tensor) -> Tensor:
    # 8 bits at strength 0, 4 at strength 1
    unit, low, span = _unit(x)
    steps = torch.exp2(8 - torch.round(4 * _wide(signed).abs()))
    return low + span * torch.clamp(torch.floor(unit * steps) / (steps - 1), max=1)


def _solarise(x: Tensor, signed: Tensor) -> Tensor:
    unit, low, span = _unit(x)
    return torch.where(unit > 1 - _wide(signed).abs(), low + span * (1 - unit), x)


def _autocontrast(x: Tensor, signed: Tensor) -> Tensor:
    # stretches every channel to the range of the whole image
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(low))
    bottom, top = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    stretched = torch.where(high > low, bottom + (x - low) / span * (top - bottom), x)
    return scale_about(x, stretched, 1 - _wide(signed).abs())


def _equalise(x: Tensor, signed: Tensor) -> Tensor:
    # a value becomes the share of its channel's pixels that are at or below it, in 256 levels
    unit, low, span = _unit(x)
    n, channels, height, width = x.shape
    level = (unit * (LEVELS - 1)).round().long().view(n * channels, -1)
    counts = torch.zeros(n * channels, LEVELS, dtype=x.dtype, device=x.device)
    counts.scatter_add_(1, level, torch.ones_like(level, dtype=x.dtype))
    below = (counts.cumsum(1) - counts / 2) / (height * width)
    flat = low + span * below.gather(1, level).view(x.shape)
    return scale_about(x, flat, 1 - _wide(signed).abs())


OPERATIONS: dict[str, Operation] = {
    "identity": lambda x, signed: x,
    "shear_x": _geometry(1, 0.3),
    "shear_y": _geometry(3, 0.3),
    "translate_x": _geometry(2, 150 / 331),
    "translate_y": _geometry(5, 150 / 331),
    "rotate": _rotate,
    "brightness": _brightness,
    "saturation": _saturation,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterise": _posterise,
    "solarise": _solarise,
    "autocontrast": _autocontrast,
    "equalise": _equalise,
}


def randaugment(x: Tensor, strength: float, generator: Generator) -> Tensor:
    """Apply two random operations to each image, with replacement, of magnitude `strength` and random sign."""
    for _ in range(OPERATIONS_PER_IMAGE):
        x = _round(x, strength, generator)
    return x


def _round(x: Tensor, strength: float, generator: Generator) -> Tensor:
    # The image at place p of a random order gets operation floor((p + u) 14 / n), which is uniform for every n. The
    # places that may get an operation do not depend on u, so that the host knows the bounds of each slice.
    n, kinds, device = len(x), len(OPERATIONS), x.device
    order = torch.randperm(n, generator=generator, device=device)
    draws = torch.rand(n + 1, generator=generator, device=device, dtype=torch.float64)
    places = torch.arange(n, device=device, dtype=torch.float64)
    chosen = torch.floor((places + draws[n]) * kinds / n).clamp(max=kinds - 1)
    signed = strength * (1 - 2 * (draws[:n] < 0.5).to(x.dtype))
    before = x[order]
    after = before.clone()
    for kind, operation in enumerate(OPERATIONS.values()):
        part = slice(kind * n // kinds, -(-(kind + 1) * n // kinds))
        selected = _wide(chosen[part] == kind)
        after[part] = torch.where(selected, operation(before[part], signed[part]), after[part])
    out = torch.empty_like(x)
    out[order] = after
    return out
