"""Folders and archives of images with one sub-folder per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.archives import is_archive, unpack
from trainables.datasets.cache import cache_folder
from trainables.datasets.dataset import Data, DataError, assemble, split_stratified
from trainables.datasets.decoding import Files
from trainables.datasets.images import Inputs, Streamed
from trainables.datasets.sources import free_bytes, normalisation_from_sums
from trainables.result import SPLITS
from trainables.runtime import Runtime
from trainables.spec import stream

Labelled = tuple[list[Path], list[int]]
ANNOTATIONS = "val_annotations.txt"


def image_folder(
    root: Path | None,
    *,
    path: str,
    size: int = 64,
    channels: int = 3,
    val_share: float = 0.1,
    test_share: float = 0.2,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    split_seed: int = 0,
    label_noise: float = 0.0,
    runtime: Runtime = Runtime(),  # noqa: B008 - frozen
) -> Data:
    """Build a data set from a folder or an archive with one folder of images per class; needs its `path`.

    The layout is `<class>/**`, or `train/<class>/**` with optional `val/` and `test/`. A split without a folder takes
    its share of the training images, every class in proportion. The layout of Tiny-ImageNet (`train/<class>/images`,
    `val/images` with `val_annotations.txt`) works too: its `val` is validation, its unlabelled test images stay unused.

    Args:
        root: Data root.
        path: Folder or archive (.tar.xz, .tar.gz, .zip), relative to the data root or absolute.
        size: Images are scaled and cropped to size x size.
        channels: 1 (grey) or 3 (RGB).
        val_share: Share of the training images for validation, without a `val` folder.
        test_share: Share of the training images for test, without a `test` folder.
        train: Number of training images, every class in proportion; None keeps all.
        val: Number of validation images, likewise.
        test: Number of test images, likewise.
        split_seed: Seed of the splits.
        label_noise: Share of the training labels that change to another class.
        runtime: Cache folder, share of memory for images, and processes that read images.

    Raises:
        DataError: The folder is missing or holds no images by class, or files cannot be read.
    """
    folder = _folder(root, path, runtime)
    names, found = _read_layout(folder)
    pools = {s: (v[0], np.asarray(v[1])) for s, v in found.items()}
    pools |= _carve_splits(pools, {"val": val_share, "test": test_share}, split_seed)
    rng = np.random.default_rng(stream("image_folder", f"limits/{split_seed}"))
    for split, limit in {"train": train, "val": val, "test": test}.items():
        if limit is not None and limit < len(pools[split][1]):
            index = split_stratified(rng, pools[split][1], (limit,))[0]
            pools[split] = _take(pools[split], index)
    return assemble(
        "image_folder",
        _inputs({s: pools[s][0] for s in SPLITS}, size, channels, runtime),
        {s: pools[s][1] for s in SPLITS},
        len(names),
        noise=(label_noise, split_seed),
        source=str(path),
    )


def cifar10_jpeg(
    root: Path | None,
    *,
    train: int = 45_000,
    val: int = 5_000,
    test: int = 10_000,
    split_seed: int = 0,
    label_noise: float = 0.0,
    runtime: Runtime = Runtime(),  # noqa: B008 - frozen
) -> Data:
    """Build CIFAR-10 re-encoded as JPEG, not the original bytes; needs cifar10_jpeg/cifar10_jpeg.tar.xz."""
    if root is None:
        raise DataError("cifar10_jpeg needs a data root; pass --data ROOT")
    names, found = _read_layout(_folder(root, "cifar10_jpeg/cifar10_jpeg.tar.xz", runtime))
    inner, outer = ((v[0], np.asarray(v[1])) for v in (found["train"], found["test"]))
    rng = np.random.default_rng(stream("cifar10_jpeg", f"split/{split_seed}"))
    chosen = [_take(inner, i) for i in split_stratified(rng, inner[1], (train, val))]
    parts = dict(zip(SPLITS, [*chosen, _take(outer, split_stratified(rng, outer[1], (test,))[0])], strict=True))
    return assemble(
        "cifar10_jpeg",
        _inputs({s: v[0] for s, v in parts.items()}, 32, 3, runtime),
        {s: v[1] for s, v in parts.items()},
        len(names),
        noise=(label_noise, split_seed),
        licence="none stated",
        source="CIFAR-10 (Krizhevsky 2009) re-encoded as JPEG: not the original bytes",
    )


def _folder(root: Path | None, path: str, runtime: Runtime) -> Path:
    where = Path(path).expanduser()
    if not where.is_absolute():
        if root is None:
            raise DataError(f"path {path!r} is relative to the data root, which is not set; pass --data ROOT")
        where = root / where
    if not where.exists():
        raise DataError(f"{where} does not exist; path must name a folder or archive, absolute or under the data root")
    if where.is_dir():
        return where
    if not is_archive(where):
        raise DataError(f"path must name a folder or an archive (.tar.xz, .tar.gz, .zip), got {where}")
    try:
        folder = unpack(where, cache_folder(runtime))
    except ValueError as error:
        raise DataError(str(error)) from None
    # an archive may hold one folder that holds the classes
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _read_layout(folder: Path) -> tuple[list[str], dict[str, Labelled]]:
    has = {s: (folder / s).is_dir() for s in SPLITS}
    top = folder / "train" if has["train"] else folder
    names = sorted(p.name for p in top.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{top} must hold a folder of images for each of >= 2 classes, got {names or 'none'}")
    found = {"train": _list_by_class(top, names)}
    tiny = folder / "val" / ANNOTATIONS
    if has["train"] and tiny.is_file():
        return names, {**found, "val": _read_annotations(tiny, names)}
    for split in SPLITS[1:]:
        if has["train"] and has[split]:
            found[split] = _list_by_class(folder / split, names)
    return names, found


def _list_by_class(folder: Path, names: Sequence[str]) -> Labelled:
    from torchvision.datasets.folder import (  # pyright: ignore[reportMissingTypeStubs]
        IMG_EXTENSIONS,
        make_dataset,
    )

    present = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if strange := sorted(present - set(names)):
        raise DataError(f"{folder} holds classes that the training images lack: {', '.join(strange)}")
    try:
        found = make_dataset(str(folder), {n: i for i, n in enumerate(names)}, IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}") from None
    return [Path(p) for p, _ in found], [label for _, label in found]


def _read_annotations(file: Path, names: Sequence[str]) -> Labelled:
    labels = {n: i for i, n in enumerate(names)}
    rows = [line.split("\t") for line in file.read_text().splitlines() if line.strip()]
    if wrong := [row for row in rows if len(row) < 2 or row[1] not in labels]:
        raise DataError(f"{file} must hold rows of file, class of {file.parent.parent / 'train'}, ..., got {wrong[0]}")
    return [file.parent / "images" / row[0] for row in rows], [labels[row[1]] for row in rows]


def _carve_splits(
    pools: Mapping[str, tuple[list[Path], np.ndarray]], shares: Mapping[str, float], seed: int
) -> dict[str, tuple[list[Path], np.ndarray]]:
    absent = [s for s in SPLITS[1:] if s not in pools]
    for split in absent:
        if not 0 < shares[split] < 1:
            raise DataError(f"{split}_share must lie in (0, 1) without a {split} folder, got {shares[split]}")
    y = pools["train"][1]
    sizes = [round(shares[s] * len(y)) for s in absent]
    rng = np.random.default_rng(stream("image_folder", f"split/{seed}"))
    parts = split_stratified(rng, y, (*sizes, len(y) - sum(sizes)))
    return {s: _take(pools["train"], i) for s, i in zip((*absent, "train"), parts, strict=True)}


def _take(pool: tuple[list[Path], np.ndarray], index: np.ndarray) -> tuple[list[Path], np.ndarray]:
    return [pool[0][i] for i in index], pool[1][index]


def _inputs(
    paths: Mapping[str, list[Path]], size: int, channels: int, runtime: Runtime
) -> Mapping[str, Inputs] | Mapping[str, Tensor]:
    cache, workers = cache_folder(runtime), runtime.loader_workers
    files = Files(list(chain.from_iterable(paths.values())), size, channels)
    counts = [len(v) for v in paths.values()]
    if files.shape.numel() <= runtime.resident_share * free_bytes(runtime.device):
        return dict(zip(paths, torch.split(files.map_pixels(cache, workers), counts), strict=True))
    sums = dict(zip(paths, torch.split(files.sum_pixels(cache, workers), counts), strict=True))
    mean, std = normalisation_from_sums(sums["train"].sum(0), len(paths["train"]) * size**2)
    return {s: Streamed(Files(v, size, channels), mean, std, workers=workers) for s, v in paths.items()}
