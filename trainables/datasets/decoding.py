"""Image files as uint8 pixels: decoded once into the cache where they fit, or read at each access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.cache import fingerprint, made_once
from trainables.datasets.dataset import DataError
from trainables.datasets.sources import read_ahead

if TYPE_CHECKING:  # Pillow comes with torchvision, which digits and a user's tensors do without
    from PIL import Image

NAMED = 5  # unreadable files that a message names
AT_ONCE = 64  # images that a process decodes at a time
MOST_PIXELS = 1 << 26  # of an image before it is scaled: 200 MB as RGB
MODES = {1: "L", 3: "RGB"}


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Return an image as uint8 [channels, size, size], scaled bilinearly by its shorter side and cropped in the middle.

    16-bit images keep their upper 8 bits; palettes and grey become colours and the reverse; transparency is dropped.

    Raises:
        OSError: The file is not an image, damaged or truncated.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            whole = _in_mode(image, MODES[channels])
            if whole.size != (size, size):
                whole = ImageOps.fit(whole, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise whatever they stumble upon
        raise OSError(f"{path}: {error}") from None
    return np.asarray(whole).reshape(size, size, channels).transpose(2, 0, 1)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("its pixels have more than 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


@dataclass(frozen=True)
class Files:
    """Image files as a source of pixels.

    Attributes:
        paths: The files.
        size, channels: What each is decoded to.
    """

    paths: Sequence[Path]
    size: int
    channels: int

    itemsize = 1

    def __post_init__(self) -> None:
        if self.size < 1 or self.channels not in MODES:
            raise DataError(f"size must be >= 1 and channels 1 or 3, got {self.size} and {self.channels}")

    @property
    def shape(self) -> torch.Size:
        """[n, channels, size, size]."""
        return torch.Size([len(self.paths), self.channels, self.size, self.size])

    def read(self, index: Tensor) -> Tensor:
        """Return the pixels of the images `index`, uint8.

        Raises:
            DataError: Some cannot be read.
        """
        pixels, bad = self.attempt(index)
        if bad:
            raise unreadable(bad, len(index))
        return pixels

    def attempt(self, index: Tensor) -> tuple[Tensor, list[str]]:
        """Return the pixels of the images `index`, zeros where unreadable, and what was wrong with those."""
        pixels = torch.zeros(len(index), *self.shape[1:], dtype=torch.uint8)
        bad = list[str]()
        for row, i in enumerate(cast(list[int], index.tolist())):  # pyright: ignore[reportUnknownMemberType]
            try:
                pixels[row] = torch.as_tensor(decode(self.paths[i], self.size, self.channels).copy())
            except OSError as error:
                bad.append(str(error))
        return pixels, bad

    def key(self) -> str:
        """Return the name of what is cached of these files; it changes when one of them does."""
        return fingerprint(self.paths, f"{self.size}/{self.channels}")

    def resident(self, cache: Path, workers: int) -> Tensor:
        """Return all pixels, uint8 [n, channels, size, size], mapped from a file of the cache that is made once.

        Raises:
            DataError: Some files cannot be read; up to five are named.
        """

        def make(path: Path) -> None:
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=tuple(self.shape))
            start = 0
            for pixels in self._all(workers):
                out[start : start + len(pixels)] = pixels.numpy()
                start += len(pixels)
            out.flush()

        path = made_once(cache / "images" / f"{self.key()}.npy", make)
        # copy on write: torch warns of memory that it may not write to
        return torch.as_tensor(np.load(path, mmap_mode="c"))

    def checked(self, cache: Path, workers: int) -> Tensor:
        """Read every file once, for images that do not fit, and return their sums.

        Returns:
            Sum and sum of squares of the pixels, int64 [n, channels, 2]; kept in the cache.

        Raises:
            DataError: Some files cannot be read; up to five are named.
        """

        def make(path: Path) -> None:
            parts = list[Tensor]()
            for pixels in self._all(workers):
                flat = pixels.flatten(2).to(torch.int32)
                parts.append(torch.stack([flat.sum(2), flat.square().sum(2)], 2))
            with path.open("wb") as file:
                np.save(file, torch.cat(parts).numpy())

        return torch.as_tensor(np.load(made_once(cache / "images" / f"{self.key()}.sums.npy", make)))

    def _all(self, workers: int) -> Iterator[Tensor]:
        # to the end, so that the error counts every file
        bad = list[str]()
        parts = torch.split(torch.arange(len(self.paths)), AT_ONCE)
        for pixels, wrong in read_ahead(self.attempt, parts, workers):
            bad += wrong
            yield pixels
        if bad:
            raise unreadable(bad, len(self.paths))


def unreadable(messages: Sequence[str], total: int) -> DataError:
    """Return the error that names the first few files that cannot be read, and counts the others."""
    more = f" and {len(messages) - NAMED} more" if len(messages) > NAMED else ""
    return DataError(
        f"{len(messages)} of {total} images cannot be read: {'; '.join(messages[:NAMED])}{more}; repair or remove them"
    )
