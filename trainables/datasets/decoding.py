"""Image files as uint8 pixels: decoded once into the cache if they fit, else read at each access."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.cache import fingerprint, make_once
from trainables.datasets.dataset import DataError
from trainables.datasets.sources import read_ahead

if TYPE_CHECKING:  # Pillow comes with torchvision, which digits and a user's tensors do without
    from PIL import Image

NAMED = 5  # an error names at most this number of files
AT_ONCE = 64  # images per task of a decoding process
MOST_PIXELS = 1 << 26  # of an image before scaling: 200 MB as RGB
MODES = {1: "L", 3: "RGB"}


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Return an image as uint8 [channels, size, size]: its shorter side scaled bilinearly, its centre cropped.

    16-bit images keep their upper 8 bits. Colour modes are converted; transparency is dropped.

    Raises:
        OSError: The file is no image, damaged or truncated.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MOST_PIXELS}")
            whole = _in_mode(image, MODES[channels])
            if whole.size != (size, size):
                whole = ImageOps.fit(whole, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow's decoders raise all kinds of exceptions
        raise OSError(f"{path}: {error}") from None
    return np.asarray(whole).reshape(size, size, channels).transpose(2, 0, 1)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):
        # Pillow would clip 16 bits at 255
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
        size, channels: Side and channels of the decoded images.
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
        """Return the pixels of the images `index`, uint8 [m, channels, size, size].

        Raises:
            DataError: Some files cannot be read.
        """
        pixels, bad = self.attempt(index)
        if bad:
            raise unreadable_error(bad, len(index))
        return pixels

    def attempt(self, index: Tensor) -> tuple[Tensor, list[str]]:
        """Return the pixels of the images `index`, zeros for unreadable ones, and the error messages."""
        pixels = torch.zeros(len(index), *self.shape[1:], dtype=torch.uint8)
        bad = list[str]()
        for row, i in enumerate(cast(list[int], index.tolist())):  # pyright: ignore[reportUnknownMemberType]
            try:
                pixels[row] = torch.as_tensor(decode(self.paths[i], self.size, self.channels).copy())
            except OSError as error:
                bad.append(str(error))
        return pixels, bad

    def key(self) -> str:
        """Return the name of the cached pixels of these files; it changes if a file changes."""
        return fingerprint(self.paths, f"{self.size}/{self.channels}")

    def map_pixels(self, cache: Path, workers: int) -> Tensor:
        """Return all pixels, uint8 [n, channels, size, size], mapped from a file of the cache.

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

        path = make_once(cache / "images" / f"{self.key()}.npy", make)
        # copy on write, because torch warns about read-only memory
        return torch.as_tensor(np.load(path, mmap_mode="c"))

    def sum_pixels(self, cache: Path, workers: int) -> Tensor:
        """Read every file once and return the sums of its pixels, for images that do not fit.

        Returns:
            Sum and sum of squares of the pixels, int64 [n, channels, 2], from the cache if it holds them.

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

        return torch.as_tensor(np.load(make_once(cache / "images" / f"{self.key()}.sums.npy", make)))

    def _all(self, workers: int) -> Iterator[Tensor]:
        # reads all files, so that the error counts every unreadable one
        bad = list[str]()
        parts = torch.split(torch.arange(len(self.paths)), AT_ONCE)
        for pixels, wrong in read_ahead(self.attempt, parts, workers):
            bad += wrong
            yield pixels
        if bad:
            raise unreadable_error(bad, len(self.paths))


def unreadable_error(messages: Sequence[str], total: int) -> DataError:
    """Return an error that names the first unreadable files and counts the others."""
    more = f" and {len(messages) - NAMED} more" if len(messages) > NAMED else ""
    return DataError(
        f"{len(messages)} of {total} images cannot be read: {'; '.join(messages[:NAMED])}{more}; repair or remove them"
    )
