"""Data sets as tensors on the device, with fixed train/val/test splits. Nothing is ever downloaded here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .registry import Registry
from .result import SPLITS
from .spec import JSON, stream


class DataError(ValueError):
    """A data set that cannot be read; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Data:
    """A classification data set.

    Attributes:
        x: Split (`train`, `val`, `test`) -> inputs, float [n, channels, height, width], normalised.
        y: Split -> labels, int64 [n].
        classes: Number of classes C; labels lie in [0, C).
        licence, source: Where the data comes from.
    """

    x: Mapping[str, Tensor]
    y: Mapping[str, Tensor]
    classes: int
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for split in SPLITS:
            if split not in self.x or split not in self.y:
                raise DataError(f"a data set must have the splits {', '.join(SPLITS)}; {split} is missing")
            if len(self.x[split]) != len(self.y[split]) or not len(self.y[split]):
                raise DataError(f"split {split} has {len(self.x[split])} inputs and {len(self.y[split])} labels")
        if self.classes < 2:
            raise DataError(f"a task must have >= 2 classes, got {self.classes}")
        top = max(int(y.max()) for y in self.y.values())
        if top >= self.classes or min(int(y.min()) for y in self.y.values()) < 0:
            raise DataError(f"labels must lie in [0, {self.classes}), got up to {top}")

    @property
    def examples(self) -> int:
        """Number of training examples, N."""
        return len(self.y["train"])

    def to(self, device: str, dtype: torch.dtype) -> Data:
        """Return the data on another device, inputs in `dtype`."""
        x = {s: v.to(device, dtype) for s, v in self.x.items()}
        return replace(self, x=x, y={s: v.to(device) for s, v in self.y.items()})


Builder = Callable[..., Data]
DATASETS: Registry[Builder] = Registry("data set")


def _pick(rng: np.random.Generator, y: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    # stratified, so that a small split has every class
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
    """Return labels of which `share` (rounded to a whole number of labels) became another class.

    Args:
        y: Labels, int64 [n].
        classes: Number of classes.
        share: Share of labels to flip, each to one of the other classes with equal probability.
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


def _normalised(images: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    mean, std = float(images["train"].mean()), float(images["train"].std())
    return {s: ((torch.as_tensor(v).float() - mean) / std).unsqueeze(1) for s, v in images.items()}


@DATASETS.register("digits")
def digits(root: Path | None, *, label_noise: float = 0.0, split_seed: int = 0) -> Data:
    """scikit-learn's bundled digits: 8x8 grey, 10 classes, 720 train / 180 validation / 897 test."""
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]

    bunch = cast(Any, load_digits())
    images, labels = np.asarray(bunch.images), np.asarray(bunch.target)
    rng = np.random.default_rng(stream("digits", f"split/{split_seed}"))
    parts = dict(zip(SPLITS, _pick(rng, labels, (720, 180, 897)), strict=True))
    y = {s: torch.as_tensor(labels[i]).long() for s, i in parts.items()}
    y["train"] = flip_labels(y["train"], 10, label_noise, stream("digits", f"label_noise/{split_seed}"))
    return Data(
        x=_normalised({s: images[i] for s, i in parts.items()}),
        y=y,
        classes=10,
        licence="CC BY 4.0",
        source="UCI optical recognition of handwritten digits, test part, as bundled with scikit-learn",
    )


_FASHION_FILES = tuple(f"{p}-{k}-ubyte" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))


@DATASETS.register("fashion_mnist")
def fashion_mnist(
    root: Path | None, *, train: int = 50_000, val: int = 10_000, test: int = 10_000, split_seed: int = 0
) -> Data:
    """Fashion-MNIST from a data root: 28x28 grey, 10 classes; train and validation from its 60,000 training images."""
    from torchvision.datasets import FashionMNIST  # pyright: ignore[reportMissingTypeStubs]

    folder = require_files(root, "FashionMNIST/raw", _FASHION_FILES, "torchvision.datasets.FashionMNIST")
    try:
        sets = {name: FashionMNIST(str(folder), train=name == "train", download=False) for name in ("train", "test")}
    except (RuntimeError, ValueError, OSError, EOFError) as error:
        raise DataError(
            f"a file in {folder}/FashionMNIST/raw is corrupt or truncated: {error}; fetch it again"
        ) from None
    if train + val > len(sets["train"]) or test > len(sets["test"]):
        raise DataError(f"fashion_mnist has 60000 + 10000 images, got train {train} + val {val} and test {test}")
    rng = np.random.default_rng(stream("fashion_mnist", f"split/{split_seed}"))
    labels = {name: s.targets.numpy() for name, s in sets.items()}
    inner, outer = _pick(rng, labels["train"], (train, val)), _pick(rng, labels["test"], (test,))
    parts = {"train": ("train", inner[0]), "val": ("train", inner[1]), "test": ("test", outer[0])}
    return Data(
        x=_normalised({s: sets[name].data.numpy()[i] / np.float32(255) for s, (name, i) in parts.items()}),
        y={s: torch.as_tensor(labels[name][i]).long() for s, (name, i) in parts.items()},
        classes=10,
        licence="MIT",
        source="Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747",
    )


def require_files(root: Path | None, folder: str, files: Sequence[str], reader: str) -> Path:
    """Return the data root after checking that the files of a data set are there.

    Raises:
        DataError: No data root, or files are missing; the message names them and says how to get them.
    """
    get = f"{reader}('ROOT', download=True) fetches them; then pass --data ROOT"
    if root is None:
        raise DataError(f"this data set is read from a data root and none was given; {get}")
    if missing := [f for f in files if not (root / folder / f).is_file()]:
        raise DataError(f"{root / folder} lacks {', '.join(missing)}; {get}")
    return root


def load(name: str, options: JSON, root: str | None, device: str, dtype: torch.dtype) -> Data:
    """Return a data set on the device; the last few are kept in memory.

    Raises:
        UnknownName: No such data set.
        DataError: Its files are missing or its options are wrong.
    """
    return _load(name, json.dumps(dict(options), sort_keys=True), root, device, dtype)


@lru_cache(maxsize=4)
def _load(name: str, options: str, root: str | None, device: str, dtype: torch.dtype) -> Data:
    builder = DATASETS[name]
    try:
        data = builder(Path(root) if root else None, **json.loads(options))
    except TypeError as error:
        raise DataError(f"data set {name!r} does not take these dataset_options: {error}") from None
    return data.to(device, dtype)


def forget() -> None:
    """Free the data sets that `load` keeps in memory."""
    _load.cache_clear()
