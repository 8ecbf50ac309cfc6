"""Data sets by name, with fixed train/val/test splits, on the device of a trial."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainables.datasets import image_folder, torchvision
from trainables.datasets.dataset import DATASETS, Builder, Data, DataError, assemble, flip_labels, split_stratified
from trainables.datasets.images import Inputs, Resident
from trainables.datasets.sources import free_bytes
from trainables.datasets.text import sets
from trainables.registry import build_with
from trainables.result import SPLITS
from trainables.runtime import Runtime
from trainables.spec import JSON, stream

__all__ = ["DATASETS", "Builder", "Data", "DataError", "digits", "flip_labels", "forget", "load"]

DATASETS.add("image_folder", image_folder.image_folder)
DATASETS.add("cifar10_jpeg", image_folder.cifar10_jpeg)
for _official in torchvision.OFFICIAL:
    DATASETS.add(_official.name, torchvision.builder(_official))
DATASETS.add("text", sets.text)
DATASETS.add("sentences", sets.sentences)
for _named in sets.NAMED:
    DATASETS.add(_named.name, sets.builder(_named))


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, whole numbers up to 16, shape (1797, 8, 8), and their labels, shape (1797,)."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = Path(folder, "datasets", "data", "digits.csv.gz")
        if file.exists():  # importing sklearn.datasets takes each worker more than a second
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    from sklearn.datasets import load_digits  # pyright: ignore[reportMissingTypeStubs]

    bunch = cast(Any, load_digits())
    return bunch.images, np.asarray(bunch.target)


@DATASETS.register("digits")
def digits(
    root: Path | None, *, label_noise: float = 0.0, split_seed: int = 0, size: int = 8, channels: int = 1
) -> Data:
    """Build scikit-learn's bundled digits: 8x8 grey images in 10 classes; needs no files.

    The splits hold 720 training, 180 validation and 897 test images. Other sizes are resized bilinearly and stored in
    256 levels; more channels repeat the grey one. Both options test models for photographs without a download.
    """
    if size < 1 or channels < 1:
        raise DataError(f"size and channels of digits must be >= 1, got {size} and {channels}")
    grey, labels = _read_digits()
    images = torch.as_tensor(grey).float().unsqueeze(1)
    if size != 8:
        # digits hold whole numbers up to 16
        images = (interpolate(images, (size, size), mode="bilinear") * (255 / 16)).round()
    images = images.to(torch.uint8)
    rng = np.random.default_rng(stream("digits", f"split/{split_seed}"))
    parts = dict(zip(SPLITS, split_stratified(rng, labels, (720, 180, 897)), strict=True))
    return assemble(
        "digits",
        {s: images[torch.as_tensor(i)].expand(-1, channels, -1, -1) for s, i in parts.items()},
        {s: labels[i] for s, i in parts.items()},
        10,
        noise=(label_noise, split_seed),
        licence="CC BY 4.0",
        source="UCI optical recognition of handwritten digits, test part, as bundled with scikit-learn",
    )


def load(name: str, options: JSON, runtime: Runtime, dtype: torch.dtype) -> Data:
    """Return a data set on the device of `runtime`; the last eight stay in memory.

    A builder is called with the data root and the options, and with `runtime` if it has a parameter of this name.
    Inputs that exceed `runtime.resident_share` of the device's free memory are streamed to it.

    Raises:
        UnknownName: No such data set.
        DataError: Its files are missing or its options are wrong.
    """
    # a key of the cache: other fields must not cause a second copy
    here = Runtime(
        data_root=runtime.data_root,
        device=runtime.device,
        cache=runtime.cache,
        download=runtime.download,
        resident_share=runtime.resident_share,
        loader_workers=runtime.loader_workers,
    )
    return _load(DATASETS[name], name, json.dumps(dict(options), sort_keys=True), here, dtype)


@lru_cache(maxsize=8)
def _load(builder: Builder, name: str, options: str, runtime: Runtime, dtype: torch.dtype) -> Data:
    given: dict[str, Any] = json.loads(options)
    root = Path(runtime.data_root) if runtime.data_root else None
    own = {"runtime": runtime} if "runtime" in inspect.signature(builder).parameters else {}
    if "runtime" in given:
        raise DataError(f"data set {name!r} has no option 'runtime'")
    try:
        data = build_with(f"data set {name!r}", builder, [root], given, own)
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from None
    return _place(replace(data, name=name), runtime, dtype)


def _place(data: Data, runtime: Runtime, dtype: torch.dtype) -> Data:
    return data.to(runtime.device, dtype) if _fits(data, runtime) else _stream_images(data, runtime, dtype)


def _fits(data: Data, runtime: Runtime) -> bool:
    if torch.device(runtime.device).type == "cpu":
        return True  # it is in memory already, or its builder streams it
    size = sum(x.stored_bytes for x in data.x.values() if isinstance(x, Resident))
    return size <= runtime.resident_share * free_bytes(runtime.device)


def _stream_images(data: Data, runtime: Runtime, dtype: torch.dtype) -> Data:
    def stream_inputs(x: Inputs) -> Inputs:
        if isinstance(x, Resident):
            return x.to_streamed(runtime.device, dtype, runtime.loader_workers)
        return x.to(runtime.device, dtype)

    y: dict[str, Tensor] = {s: v.to(runtime.device) for s, v in data.y.items()}
    return replace(data, x={s: stream_inputs(x) for s, x in data.x.items()}, y=y)


def forget() -> None:
    """Free the data sets that `load` keeps in memory."""
    _load.cache_clear()
