"""torchvision's data sets, read from a data root and downloaded only on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.cache import cache_folder, lock
from trainables.datasets.dataset import Builder, Data, DataError, assemble, split_stratified
from trainables.runtime import Runtime
from trainables.spec import stream


@dataclass(frozen=True)
class Official:
    """A data set class of torchvision.

    Attributes:
        name: Name in `DATASETS` and of its random streams.
        reader: Name of the class in `torchvision.datasets`.
        folder, files: Files that the class needs under the data root.
        sizes: Default number of images for training, validation (both from the official training images) and test.
        classes: Number of classes.
        licence, source: Licence and origin.
    """

    name: str
    reader: str
    folder: str
    files: tuple[str, ...]
    sizes: tuple[int, int, int]
    classes: int
    licence: str
    source: str


_IDX = tuple(f"{p}-{k}-ubyte" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_MAT = ("train_32x32.mat", "test_32x32.mat")
_GREY, _RGB = (50_000, 10_000, 10_000), (45_000, 5_000, 10_000)
_KRIZHEVSKY = "Krizhevsky 2009, Learning multiple layers of features from tiny images"
OFFICIAL = (
    Official("mnist", "MNIST", "MNIST/raw", _IDX, _GREY, 10, "CC BY-SA 3.0", "LeCun, Cortes & Burges 1998"),
    Official(
        "fashion_mnist", "FashionMNIST", "FashionMNIST/raw", _IDX, _GREY, 10, "MIT",
        "Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747",
    ),
    Official(
        "kmnist", "KMNIST", "KMNIST/raw", _IDX, _GREY, 10, "CC BY-SA 4.0", "Clanuwat et al. 2018, arXiv 1812.01718"
    ),
    Official("cifar10", "CIFAR10", "cifar-10-batches-py", _BATCHES, _RGB, 10, "none stated", _KRIZHEVSKY),
    Official(
        "cifar100", "CIFAR100", "cifar-100-python", ("train", "test", "meta"), _RGB, 100, "none stated", _KRIZHEVSKY
    ),
    Official(
        "svhn", "SVHN", "", _MAT, (65_000, 8_257, 26_032), 10, "non-commercial use",
        "Netzer et al. 2011, Reading digits in natural images with unsupervised feature learning",
    ),
)  # fmt: skip


def builder(official: Official) -> Builder:
    """Return the builder of one of torchvision's data sets."""

    def build(
        root: Path | None,
        *,
        train: int = official.sizes[0],
        val: int = official.sizes[1],
        test: int = official.sizes[2],
        split_seed: int = 0,
        label_noise: float = 0.0,
        runtime: Runtime = Runtime(),  # noqa: B008 - frozen
    ) -> Data:
        (x, y), (x_test, y_test) = _read(official, root, runtime)
        if train + val > len(y) or test > len(y_test):
            raise DataError(
                f"{official.name} has {len(y)} + {len(y_test)} images, got train {train} + val {val} and test {test}"
            )
        rng = np.random.default_rng(stream(official.name, f"split/{split_seed}"))
        inner, outer = split_stratified(rng, y, (train, val)), split_stratified(rng, y_test, (test,))
        return assemble(
            official.name,
            {"train": _pick(x, inner[0]), "val": _pick(x, inner[1]), "test": _pick(x_test, outer[0])},
            {"train": y[inner[0]], "val": y[inner[1]], "test": y_test[outer[0]]},
            official.classes,
            noise=(label_noise, split_seed),
            licence=official.licence,
            source=official.source,
        )

    needed = official.folder or " and ".join(official.files)
    build.__doc__ = (
        f"Build torchvision's {official.reader}: {official.classes} classes; needs {needed}."
        f"\n\nSource: {official.source}; licence: {official.licence}."
    )
    return build


def _pick(images: np.ndarray, index: np.ndarray) -> Tensor:
    return torch.as_tensor(images[index])


def _read(official: Official, root: Path | None, runtime: Runtime) -> list[tuple[np.ndarray, np.ndarray]]:
    import torchvision.datasets as known  # pyright: ignore[reportMissingTypeStubs]

    reader: Any = getattr(known, official.reader)
    folder = root / official.folder if root else None
    missing = [f for f in official.files if folder is None or not (folder / f).is_file()]
    if root is None or folder is None or (missing and not runtime.download):
        raise DataError(_how_to_get(official, folder, missing))
    if missing:
        _fetch(official, reader, root, runtime)
    try:
        return [_arrays(reader(str(root), download=False, **_part(official, part))) for part in ("train", "test")]
    except (RuntimeError, ValueError, OSError, EOFError, KeyError) as error:
        raise DataError(f"a file in {folder} is damaged or truncated: {error}; fetch it again") from None


def _part(official: Official, part: str) -> dict[str, object]:
    return {"split": part} if official.reader == "SVHN" else {"train": part == "train"}


def _arrays(found: Any) -> tuple[np.ndarray, np.ndarray]:
    # torchvision stores grey images as [n, h, w], and colours last or first
    images = np.asarray(found.data)
    labels = np.asarray(found.labels if hasattr(found, "labels") else found.targets)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] != 3:
        images = images.transpose(0, 3, 1, 2)
    return images, labels


def _how_to_get(official: Official, folder: Path | None, missing: Sequence[str]) -> str:
    get = (
        f"torchvision.datasets.{official.reader}('ROOT', download=True) or --download fetches the files; "
        "then pass --data ROOT"
    )
    if folder is None:
        return f"{official.name} needs a data root; {get}"
    return f"{folder} lacks {', '.join(missing)}; {get}"


def _fetch(official: Official, reader: Any, root: Path, runtime: Runtime) -> None:
    with lock(cache_folder(runtime) / "downloads" / official.name):
        try:
            root.mkdir(parents=True, exist_ok=True)
            for part in ("train", "test"):
                reader(str(root), download=True, **_part(official, part))
        except (RuntimeError, ValueError, OSError) as error:
            raise DataError(f"{official.name} could not be fetched into {root}: {error}") from None
