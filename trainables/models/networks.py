"""Networks of this package: (classes, channels, **options) -> torch module that maps images to logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn

from trainables.models.permutations import Group, PermutationMap, count_units, list_inputs, list_outputs, map_chain


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with GroupNorm or BatchNorm and a linear head; 14,174 parameters for grey digits.

    The convolutions have 16, 32 and 28 channels; ReLU follows each, then 2x2 mean pooling. The head sees positions:
    with global pooling the network cannot fit noisy labels, and a merge would have little to average out.

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

    def permutation_map(self) -> PermutationMap:
        """Return which axes list the same channels."""
        return map_chain(self, [(f"features.{i}", f"features.{i + 1}") for i in (0, 3, 6)], "head")


MOST_LAYERS = 64
"""Most hidden layers of an MLP."""


class MLP(nn.Module):
    """Linear layers with ReLU on all pixels of an image; options `widths` and `norm`.

    Args:
        classes: Number of logits.
        channels: Input channels.
        size: Height and width of the images; the first layer fits this size only.
        widths: Units of the hidden layers, one number per layer.
        norm: `none`, `layer` (LayerNorm) or `batch` (BatchNorm), before each ReLU.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 1,
        size: int | tuple[int, int] = 28,
        widths: Sequence[int] = (256, 128),
        norm: Literal["none", "layer", "batch"] = "none",
    ) -> None:
        super().__init__()
        norms = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
        if norm not in norms:
            raise ValueError(f"norm must be 'none', 'layer' or 'batch', got {norm!r}")
        if not _are_widths(widths):
            raise ValueError(f"widths must be a list of 1 to {MOST_LAYERS} whole numbers >= 1, got {widths!r}")
        height, width = (size, size) if isinstance(size, int) else size
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in zip((channels * height * width, *widths), widths, strict=False):
            layers += [nn.Linear(inputs, outputs), norms[norm](outputs), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, classes] of images [n, channels, height, width]."""
        return self.head(self.features(x))

    def permutation_map(self) -> PermutationMap:
        """Return which axes list the same units."""
        places = range(1, len(self.features), 3)
        return map_chain(self, [(f"features.{i}", f"features.{i + 1}") for i in places], "head")


def _are_widths(value: object) -> bool:
    # from a user's options
    numbers = cast(list[object], value) if isinstance(value, (list, tuple)) else []
    return 1 <= len(numbers) <= MOST_LAYERS and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in numbers
    )


class ResNet18Small(nn.Module):
    """ResNet-18 for small images: a 3x3 stem of stride 1 and no max pooling; option `width`.

    It has 11,173,962 parameters at the default width for ten classes. Its weights have the names of torchvision's.

    Args:
        classes: Number of logits.
        channels: Input channels.
        width: Channels of the first stage; the next stages have 2, 4 and 8 times this number.

    Source: He et al. 2015, arXiv 1512.03385; the stem is that of its section 4.2, for 32x32 images.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be >= 1, got {width}")
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, 1)
        self.layer2 = _stage(width, 2 * width, 2)
        self.layer3 = _stage(2 * width, 4 * width, 2)
        self.layer4 = _stage(4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n, classes] of images [n, channels, height, width]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))

    def permutation_map(self) -> PermutationMap:
        """Return which axes list the same channels; the channels between two blocks are one group per stage."""
        groups: list[Group] = []
        source, stream = "conv1", list_outputs(self, "conv1", "bn1")
        for stage in (f"layer{i}" for i in range(1, 5)):
            if stage != "layer1":
                shortcut = f"{stage}.0.downsample"
                stream += [*list_inputs(self, source, f"{shortcut}.0"), *list_inputs(self, source, f"{stage}.0.conv1")]
                groups.append(Group(count_units(self, source), tuple(stream)))
                source, stream = f"{shortcut}.0", list_outputs(self, f"{shortcut}.0", f"{shortcut}.1")
            else:
                stream += list_inputs(self, source, "layer1.0.conv1")
            for block in (f"{stage}.0", f"{stage}.1"):
                stream += list_outputs(self, f"{block}.conv2", f"{block}.bn2")
                inner = [*list_outputs(self, f"{block}.conv1", f"{block}.bn1"),
                         *list_inputs(self, f"{block}.conv1", f"{block}.conv2")]  # fmt: skip
                groups.append(Group(count_units(self, f"{block}.conv1"), tuple(inner)))
            stream += list_inputs(self, source, f"{stage}.1.conv1")
        groups.append(Group(count_units(self, source), (*stream, *list_inputs(self, source, "fc"))))
        return PermutationMap(tuple(groups))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock  # pyright: ignore[reportMissingTypeStubs]

    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


def initialise(conv: nn.Conv2d) -> None:
    """Draw a convolution's weights as torchvision's ResNets do: normal, variance 2 / (outputs * kernel area).

    Source: He et al. 2015, arXiv 1502.01852, equation 14.
    """
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def small_vit(
    classes: int,
    channels: int = 3,
    size: int | tuple[int, int] = 32,
    patch: int = 4,
    dim: int = 192,
    depth: int = 6,
    heads: int = 3,
) -> nn.Module:
    """Build timm's vision transformer for small images; options `patch`, `dim`, `depth` and `heads`.

    It has 2.7 million parameters at the defaults for 32x32 images.

    Args:
        classes: Number of logits.
        channels: Input channels.
        size: Height and width of the images; the position embeddings fit this size only.
        patch: Side of a patch.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads of a block.

    Raises:
        ValueError: Patches do not tile the image, or heads the width.

    Source: Dosovitskiy et al. 2020, arXiv 2010.11929; width and heads are those of DeiT-Ti, arXiv 2012.12877.
    """
    from timm.models.vision_transformer import VisionTransformer

    height, width = (size, size) if isinstance(size, int) else size
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"patch must divide the image's size {height}x{width}, got {patch}")
    if heads < 1 or dim % heads:
        raise ValueError(f"heads must divide dim {dim}, got {heads}")
    return VisionTransformer(
        img_size=(height, width), patch_size=patch, in_chans=channels, num_classes=classes,
        embed_dim=dim, depth=depth, num_heads=heads,
    )  # fmt: skip
