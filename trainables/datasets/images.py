"""Inputs of a split: stored on the device, or read in batches by other processes; normalised at access.

Both give the same numbers, bit for bit: pixels keep their stored type on the way and are normalised on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor

from trainables.datasets.sources import Source, Stored, normalisation, read_ahead

Index = slice | Tensor


class Inputs(ABC):
    """The images of a split, as normalised floats at access.

    Attributes:
        shape: [n, channels, height, width].
        device, dtype: Device and type of the images that an access returns.
    """

    def __init__(
        self, mean: Tensor | None, std: Tensor | None, index: Tensor | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        # float32 [channels, 1, 1], in the unit of the stored values; None leaves values unchanged
        self._mean, self._std = (None if v is None else v.to(device, torch.float32) for v in (mean, std))
        self._index = index  # stored images of this split; None means all
        self.device, self.dtype = device, dtype

    @property
    @abstractmethod
    def stored_shape(self) -> torch.Size:
        """Shape of all stored images, also if this is a subset."""

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes of all stored images."""

    @property
    def shape(self) -> torch.Size:
        """[n, channels, height, width]."""
        return torch.Size([len(self), *self.stored_shape[1:]])

    def __len__(self) -> int:
        return self.stored_shape[0] if self._index is None else len(self._index)

    @abstractmethod
    def __getitem__(self, index: Index) -> Tensor:
        """Return the normalised images of a slice or of an index tensor, on the device."""

    @abstractmethod
    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each index tensor, in order."""

    @abstractmethod
    def to(self, device: torch.device | str, dtype: torch.dtype) -> Inputs:
        """Return the inputs for another device and type."""

    @abstractmethod
    def subset(self, index: Tensor) -> Inputs:
        """Return only the inputs `index`, int64 [m], without a copy."""

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, `size` at a time."""
        return self.batches(torch.split(torch.arange(len(self)), size))

    def _rows(self, index: Index) -> Index:
        if self._index is None:
            return index
        return self._index[index.to(self._index.device) if isinstance(index, Tensor) else index]

    def _normalise(self, values: Tensor) -> Tensor:
        # always in float32, so that a trial's type does not change its data
        if self._mean is None or self._std is None:
            return values.to(self.dtype)
        return values.to(torch.float32, copy=True).sub_(self._mean).div_(self._std).to(self.dtype)


class Resident(Inputs):
    """Inputs stored on the device.

    Args:
        values: Stored values [n, channels, height, width]: uint8 or floats.
        mean, std: Per channel [channels, 1, 1], in the unit of the stored values; None leaves values unchanged.
        dtype: Type that an access returns; None means the type of `values`.
        index: Stored images that belong to the inputs; None means all.
    """

    def __init__(
        self,
        values: Tensor,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        dtype: torch.dtype | None = None,
        index: Tensor | None = None,
    ) -> None:
        super().__init__(mean, std, index, values.device, dtype or values.dtype)
        self.values = values

    @property
    def stored_shape(self) -> torch.Size:
        """Shape of all stored images."""
        return self.values.shape

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored images."""
        return self.values.numel() * self.values.element_size()

    def __getitem__(self, index: Index) -> Tensor:
        rows = self._rows(index)
        return self._normalise(self.values[rows.to(self.device) if isinstance(rows, Tensor) else rows])

    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each index tensor, in order."""
        for part in parts:
            yield self[part]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Resident:
        """Return the inputs for another device and type."""
        # floats are converted once, integers at each access
        values = self.values.to(device, dtype if self._mean is None else self.values.dtype)
        index = None if self._index is None else self._index.to(device)
        return Resident(values, self._mean, self._std, dtype, index)

    def subset(self, index: Tensor) -> Resident:
        """Return only the inputs `index`, int64 [m], without a copy."""
        rows = cast(Tensor, self._rows(index.to(self.device)))
        return Resident(self.values, self._mean, self._std, self.dtype, rows)

    def to_streamed(self, device: torch.device | str, dtype: torch.dtype, workers: int) -> Streamed:
        """Return the same inputs, kept in memory and copied to the device batch by batch."""
        values = self.values.to(dtype) if self._mean is None else self.values
        return Streamed(Stored(values), self._mean, self._std, device, dtype, workers, self._index)


class Streamed(Inputs):
    """Inputs that `workers` processes read part by part, ahead of their use.

    Args:
        source: Source of the stored values.
        mean, std: Per channel [channels, 1, 1], in the unit of the stored values.
        device, dtype: Device and type of the images that an access returns.
        workers: Reading processes; 0 reads in this process.
        index: Stored images that belong to the inputs; None means all.
    """

    def __init__(
        self,
        source: Source,
        mean: Tensor | None,
        std: Tensor | None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        workers: int = 0,
        index: Tensor | None = None,
    ) -> None:
        super().__init__(mean, std, None if index is None else index.cpu(), torch.device(device), dtype)
        self.source, self.workers = source, workers

    @property
    def stored_shape(self) -> torch.Size:
        """Shape of all stored images."""
        return self.source.shape

    @property
    def stored_bytes(self) -> int:
        """Bytes of all stored images."""
        return self.source.shape.numel() * self.source.itemsize

    def __getitem__(self, index: Index) -> Tensor:
        chosen = index.cpu() if isinstance(index, Tensor) else torch.arange(len(self))[index]
        return self._normalise(self.source.read(cast(Tensor, self._rows(chosen))).to(self.device))

    def batches(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each index tensor, in order; workers read the next ones meanwhile."""
        rows = [cast(Tensor, self._rows(part.cpu())) for part in parts]
        for values in read_ahead(self.source.read, rows, self.workers, pin=self.device.type == "cuda"):
            yield self._normalise(values.to(self.device, non_blocking=True))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Streamed:
        """Return the inputs for another device and type."""
        return Streamed(self.source, self._mean, self._std, device, dtype, self.workers, self._index)

    def subset(self, index: Tensor) -> Streamed:
        """Return only the inputs `index`, int64 [m], without reading them."""
        rows = cast(Tensor, self._rows(index.cpu()))
        return Streamed(self.source, self._mean, self._std, self.device, self.dtype, self.workers, rows)


def wrap_inputs(values: Mapping[str, Tensor | Inputs]) -> dict[str, Inputs]:
    """Return each split as `Inputs`: uint8 images are normalised by the training split, floats stay unchanged."""
    train = values.get("train")
    mean: Tensor | None = None
    std: Tensor | None = None
    if isinstance(train, Tensor) and train.dtype == torch.uint8 and len(train):
        mean, std = normalisation(torch.split(train, 4096))
    return {
        s: Resident(v, *((mean, std) if v.dtype == torch.uint8 else (None, None)), dtype=_float(v))
        if isinstance(v, Tensor)
        else v
        for s, v in values.items()
    }


def _float(values: Tensor) -> torch.dtype:
    return torch.float32 if values.dtype == torch.uint8 else values.dtype
