"""Sources of pixels: memory or files, read by this process or by others."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


class Source(Protocol):
    """A store of pixels, in memory or in files."""

    @property
    def shape(self) -> torch.Size:
        """[n, channels, height, width]."""
        ...

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        ...

    def read(self, index: Tensor) -> Tensor:
        """Return the stored values of the images `index`, on the CPU."""
        ...


class Stored:
    """Pixels in memory, or in a file mapped into it."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def shape(self) -> torch.Size:
        """[n, channels, height, width]."""
        return self.values.shape

    @property
    def itemsize(self) -> int:
        """Bytes of a value."""
        return self.values.element_size()

    def read(self, index: Tensor) -> Tensor:
        """Return the stored values of the images `index`."""
        return self.values[index]


class _Parts(Dataset[T]):
    def __init__(self, read: Callable[[Tensor], T], parts: Sequence[Tensor]) -> None:
        self.read, self.parts = read, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> T:
        return self.read(self.parts[index])


def _as_is(item: Any) -> Any:
    return item


def read_ahead(read: Callable[[Tensor], T], parts: Sequence[Tensor], workers: int, pin: bool = False) -> Iterator[T]:
    """Yield `read(part)` for each part, in order; `workers` processes read ahead, 0 reads in this process."""
    with warnings.catch_warnings():
        # storage may be slow, so that more processes than cores help
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        # a separate generator: by default the loader draws from the global one, which dropout uses
        loader = DataLoader(
            _Parts(read, parts), batch_size=None, num_workers=min(workers, len(parts)), collate_fn=_as_is,
            pin_memory=pin, generator=Generator(),
        )  # fmt: skip
        items = iter(loader)
    yield from items


def normalisation(values: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, float32 [channels, 1, 1], of parts of uint8 images.

    The sums are exact, so that order and parts do not matter. A constant channel gets standard deviation 1.
    """
    count, parts = 0, list[Tensor]()
    for part in values:
        flat = part.transpose(0, 1).flatten(1).to(torch.int32)
        parts.append(torch.stack([flat.sum(1), flat.square().sum(1)], 1))
        count += flat.shape[1]
    return normalisation_from_sums(torch.stack(parts).sum(0), count)


def normalisation_from_sums(sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the same as `normalisation`, from sum and sum of squares, int64 [channels, 2], of `count` pixels."""
    # Python's integers avoid cancellation
    pairs = cast(list[list[int]], sums.tolist())  # pyright: ignore[reportUnknownMemberType]
    mean = [s / count for s, _ in pairs]
    std = [((count * q - s * s) / count**2) ** 0.5 or 1.0 for s, q in pairs]
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


def free_bytes(device: torch.device | str) -> int:
    """Return the free memory of a device in bytes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:  # includes the file cache, which can be freed
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
