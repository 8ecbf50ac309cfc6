"""Data sets: splits with inputs and labels, and the registry of their builders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from trainables.datasets.images import Inputs, wrap_inputs
from trainables.registry import Registry
from trainables.result import SPLITS
from trainables.spec import stream

SCORED, SCORED_TOKENS = 10_000, 2**14  # at most this number of training examples, and of their tokens, is scored


class DataError(ValueError):
    """A data set cannot be read; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Data:
    """A data set of labelled images, or of windows of tokens with the next token of each position.

    Attributes:
        x: Split (`train`, `val`, `test`) -> inputs [n, channels, height, width], or windows of tokens [n, context].
            Tensors are wrapped: uint8 images are normalised per channel by the training split's mean and standard
            deviation, floats stay unchanged.
        y: Split -> labels, int64 [n]; next tokens [n, context] of any whole type for text.
        classes: Number of classes C, or of tokens in the vocabulary; labels lie in [0, C).
        licence, source: Licence and origin of the data.
        name: Its name in `DATASETS`; it determines the training examples that are scored.
        bytes_per_token: Bytes of validation and test text per token; None for images.
        tokenizer: Name of the tokenizer; empty for images.

    Raises:
        DataError: A split is missing or empty, shapes differ, fewer than two classes, labels out of range.
    """

    x: Mapping[str, Inputs]
    y: Mapping[str, Tensor]
    classes: int
    licence: str = ""
    source: str = ""
    name: str = ""
    bytes_per_token: float | None = None
    tokenizer: str = ""

    def __post_init__(self) -> None:
        for split in SPLITS:
            if split not in self.x or split not in self.y:
                raise DataError(f"a data set must have the splits {', '.join(SPLITS)}; {split} is missing")
            if len(self.x[split]) != len(self.y[split]) or not len(self.y[split]):
                raise DataError(f"split {split} has {len(self.x[split])} inputs and {len(self.y[split])} labels")
        shapes = {s: list(self.x[s].shape[1:]) for s in SPLITS}
        if any(shape != shapes["train"] for shape in shapes.values()):
            raise DataError(f"inputs of all splits must have one shape, got {shapes}")
        if self.classes < 2:
            raise DataError(f"a task must have >= 2 classes, got {self.classes}")
        top = max(int(y.max()) for y in self.y.values())
        if top >= self.classes or min(int(y.min()) for y in self.y.values()) < 0:
            raise DataError(f"labels must lie in [0, {self.classes}), got up to {top}")
        object.__setattr__(self, "x", wrap_inputs(self.x))

    @property
    def examples(self) -> int:
        """Number of training examples, N: images, or windows of text."""
        return len(self.y["train"])

    @property
    def context(self) -> int | None:
        """Tokens per example; None for images."""
        y = self.y["train"]
        return y.shape[1] if y.ndim == 2 else None

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Data:
        """Return the data on another device, with inputs in `dtype`."""
        x = {s: v.to(device, dtype) for s, v in self.x.items()}
        return replace(self, x=x, y={s: v.to(device) for s, v in self.y.items()})

    def subset(self, index: Tensor) -> Data:
        """Return the data with only the training examples `index`, int64 [m]."""
        y = self.y["train"]
        return replace(
            self,
            x={**self.x, "train": self.x["train"].subset(index)},
            y={**self.y, "train": y[index.to(y.device)]},
        )

    def scored(self, split: str) -> tuple[Inputs, Tensor]:
        """Return inputs and labels of a split for scores: all examples, or at most 10,000 of `train`.

        Of text, the windows of `train` hold at most 16,384 tokens. The name of the data set determines these training
        examples, so that every trial scores the same ones.
        """
        x, y = self.x[split], self.y[split]
        most = SCORED if self.context is None else min(SCORED, max(1, SCORED_TOKENS // self.context))
        if split != "train" or len(y) <= most:
            return x, y
        order = torch.randperm(len(y), generator=Generator().manual_seed(stream(f"dataset/{self.name}", "scored")))
        index = order[:most].sort().values.to(y.device)
        return x.subset(index), y[index]


Builder = Callable[..., Data]
DATASETS: Registry[Builder] = Registry("data set")


def split_stratified(rng: np.random.Generator, y: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return disjoint index arrays of the given sizes, in random order, every class in proportion.

    Raises:
        DataError: The sizes add up to more than the examples.
    """
    if sum(sizes) > len(y) or min(sizes) < 0:
        raise DataError(f"{len(y)} examples cannot be split into {' + '.join(map(str, sizes))}")
    order = rng.permutation(len(y))
    classes = y[order]
    rank = np.empty(len(y), dtype=np.int64)
    for c in np.unique(y):
        where = np.flatnonzero(classes == c)
        rank[where] = np.arange(len(where))
    shares = np.bincount(classes)[classes]
    order = order[np.argsort((rank + 0.5) / shares, kind="stable")]
    # consecutive slices of the interleaved order hold every class in proportion
    ends = np.cumsum(sizes)
    return [rng.permutation(order[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def flip_labels(y: Tensor, classes: int, share: float, seed: int) -> Tensor:
    """Return labels with symmetric label noise: `share` of them, rounded to a whole number, get another class.

    Args:
        y: Labels, int64 [n].
        classes: Number of classes.
        share: Share of labels to change, each to one of the other classes with equal probability.
        seed: Seed of the draw.

    Raises:
        DataError: `share` is not in [0, 1].

    Source: symmetric label noise, e.g. Patrini et al. 2017, arXiv 1609.03683, section 5.
    """
    if not 0 <= share <= 1:
        raise DataError(f"label_noise must lie in [0, 1], got {share!r}")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(y), size=round(share * len(y)), replace=False)
    noisy = y.clone()
    shift = torch.as_tensor(rng.integers(1, classes, size=len(chosen)))
    noisy[chosen] = (noisy[chosen] + shift) % classes
    return noisy


def assemble(
    name: str,
    images: Mapping[str, Inputs] | Mapping[str, Tensor],
    labels: Mapping[str, np.ndarray],
    classes: int,
    *,
    noise: tuple[float, int] = (0.0, 0),
    licence: str = "",
    source: str = "",
) -> Data:
    """Return the data set `name` from images and labels by split; `noise` is (label_noise, split_seed)."""
    y = {s: torch.as_tensor(np.asarray(v)).long() for s, v in labels.items()}
    y["train"] = flip_labels(y["train"], classes, noise[0], stream(name, f"label_noise/{noise[1]}"))
    return Data(wrap_inputs(images), y, classes, licence, source, name)
