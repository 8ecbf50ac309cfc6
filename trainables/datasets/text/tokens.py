"""Windows of tokens as inputs: whole numbers on the device, or in memory if they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from trainables.datasets.dataset import Data, DataError, flip_labels
from trainables.datasets.images import Resident, Streamed
from trainables.datasets.sources import Stored
from trainables.result import SPLITS
from trainables.spec import stream


class Tokens(Resident):
    """Windows of tokens, stored as small whole numbers; an access returns int64 [n, context]."""

    def __init__(self, values: Tensor, index: Tensor | None = None) -> None:
        super().__init__(values, dtype=torch.int64, index=index)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all windows and of their targets, which are as large."""
        return 2 * super().stored_bytes

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Tokens:
        """Return the windows on another device; tokens stay whole numbers, whatever the `dtype` of a trial."""
        index = None if self._index is None else self._index.to(device)
        return Tokens(self.values.to(device), index)

    def subset(self, index: Tensor) -> Tokens:
        """Return only the windows `index`, int64 [m], without a copy."""
        return Tokens(self.values, cast(Tensor, self._rows(index.to(self.device))))

    def to_streamed(self, device: torch.device | str, dtype: torch.dtype, workers: int) -> Streamed:
        """Return the same windows, kept in memory and copied to the device batch by batch."""
        return Streamed(Stored(self.values), None, None, device, torch.int64, workers, self._index)


def smallest_type(vocabulary: int) -> torch.dtype:
    """Return the smallest type that torch computes with and that holds every token."""
    return torch.uint8 if vocabulary <= 2**8 else torch.int16 if vocabulary <= 2**15 else torch.int32


def windows(tokens: np.ndarray, context: int, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Return windows [n, context] of a stream of tokens, and the next token of each position.

    Windows do not overlap; tokens at the end that fill no window are left out. The last target of a window is the
    first token of the next one.

    Args:
        tokens: Stream [m] of whole numbers.
        context: Tokens per window.
        most: At most this number of windows, evenly spaced; None returns all.
    """
    n = max(0, (len(tokens) - 1) // context)
    values = torch.from_numpy(tokens)  # pyright: ignore[reportUnknownMemberType]
    x, y = (values[start : start + n * context].view(n, context) for start in (0, 1))
    if most is not None and most < n:
        chosen = torch.arange(most) * n // most
        x, y = x[chosen], y[chosen]
    return x, y


def token_data(
    name: str,
    streams: Mapping[str, np.ndarray],
    context: int,
    vocabulary: int,
    bytes_per_token: float,
    *,
    limits: Mapping[str, int | None],
    noise: tuple[float, int] = (0.0, 0),
    licence: str = "",
    source: str = "",
    tokenizer: str = "",
) -> Data:
    """Return the data set `name` from one stream of tokens per split; `noise` is (label_noise, split_seed).

    Raises:
        DataError: A split is shorter than one window, or an option breaks its rule.
    """
    if context < 1:
        raise DataError(f"context must be >= 1 token, got {context}")
    for split, limit in limits.items():
        if limit is not None and limit < 1:
            raise DataError(f"{split} must be >= 1 window of text, got {limit}")
    dtype = smallest_type(vocabulary)
    x: dict[str, Tokens] = {}
    y: dict[str, Tensor] = {}
    for split in SPLITS:
        stored = streams[split].astype(_NUMPY[dtype], copy=False)
        found = windows(stored if stored.flags.writeable else stored.copy(), context, limits.get(split))
        if not len(found[0]):
            raise DataError(
                f"split {split} of the text has {len(stored)} tokens, which is less than one window of context "
                f"{context} and its next token; shorten context or give more text"
            )
        x[split], y[split] = Tokens(found[0]), found[1]
    if noise[0]:
        flat = y["train"].flatten().long()
        noisy = flip_labels(flat, vocabulary, noise[0], stream(name, f"label_noise/{noise[1]}"))
        y["train"] = noisy.view(y["train"].shape).to(dtype)
    return Data(x, y, vocabulary, licence, source, name, bytes_per_token, tokenizer)


_NUMPY = {torch.uint8: np.uint8, torch.int16: np.int16, torch.int32: np.int32}
