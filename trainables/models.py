"""Model builders by name: (classes, channels, **options) -> torch module that maps images to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from .registry import Registry

Builder = Callable[..., nn.Module]
MODELS: Registry[Builder] = Registry("model")


class SmallCNN(nn.Module):
    """Three 3x3 convolutions (16, 32, 28 channels), normalisation and ReLU after each, 2x2 mean pooling, linear head.

    14,174 parameters for one input channel and ten classes. The head sees positions: with global pooling it cannot
    fit noisy labels, and there is little for a merge to average out.

    Args:
        classes: Number of logits.
        channels: Input channels.
        norm: `group` (GroupNorm of 4 groups, no batch statistics) or `batch` (BatchNorm).
        stem_stride: Stride of the first convolution; 2 quarters the cost on 28x28 images.
    """

    def __init__(
        self, classes: int, channels: int = 1, norm: Literal["group", "batch"] = "group", stem_stride: int = 1
    ) -> None:
        super().__init__()
        if norm not in ("group", "batch"):
            raise ValueError(f"norm must be 'group' or 'batch', got {norm!r}")
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((channels, 16, stem_stride), (16, 32, 2), (32, 28, 2)):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1))
            layers.append(nn.GroupNorm(4, outputs) if norm == "group" else nn.BatchNorm2d(outputs))
            layers.append(nn.ReLU(inplace=True))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(28 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, classes] of images [n, channels, height, width]."""
        return self.head(self.features(x))


MODELS.add("small_cnn", SmallCNN)


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the model keeps running batch statistics that a merge invalidates."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return any(isinstance(m, kinds) for m in model.modules())
