"""Batches of an epoch: shuffled, augmented in chunks, shared between ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Generator, Tensor

from trainables.datasets.augmentation import augment as augmented
from trainables.datasets.dataset import Data, split_stratified
from trainables.spec import PairSpec

# images and values (256 MiB of float32) of one augmentation call; they bound memory and determine the random numbers
AUGMENT_IMAGES = 4096
AUGMENT_VALUES = 2**26

Batch = tuple[Tensor, Tensor]


def steps_per_epoch(examples: int, batch_size: int, name: str = "batch_size") -> int:
    """Return the steps of one epoch; the last incomplete batch is dropped, so that every batch has B examples.

    Raises:
        ValueError: The batch is larger than the training set.
    """
    if batch_size > examples:
        raise ValueError(f"{name} must be <= the {examples} training examples, got {batch_size}")
    return examples // batch_size


def augmentation_chunk(batch_size: int, shape: torch.Size) -> int:
    """Return the number of images of shape [*, ...] per augmentation call: whole batches, at least one."""
    images = min(AUGMENT_IMAGES, AUGMENT_VALUES // math.prod(shape[1:]))
    return batch_size * max(1, images // batch_size)


def group_batches(sizes: Sequence[int], shape: torch.Size) -> list[int]:
    """Return how many batches every augmentation call takes.

    Args:
        sizes: Examples of the batches, in order.
        shape: Shape of the training images, [n, ...].
    """
    most = augmentation_chunk(1, shape)
    calls: list[int] = []
    room = 0
    for size in sizes:
        if room < size:
            calls.append(0)
            room = max(most, size)
        calls[-1] += 1
        room -= size
    return calls


def epoch_batches(
    data: Data,
    spec: PairSpec,
    order: Generator,
    augment: Generator,
    rank: int = 0,
    ranks: int = 1,
    done: int = 0,
    half: int | None = None,
    sizes: Sequence[int] = (),
) -> Iterator[Batch]:
    """Yield the batches of one epoch, shuffled and augmented.

    Args:
        data: Its training split is used once, without the last incomplete batch.
        spec: Its batch size and augmentation.
        order: Source of the order, on the CPU.
        augment: Source of the augmentation, on the data's device.
        rank: Index of the slice of each batch to yield, of `ranks` equal slices.
        ranks: Processes that share a batch. Each draws for the whole batch, so that together they see what one process
            would see.
        done: Batches of the epoch to skip. Images of earlier augmentation calls are not read: `augment` must have the
            state before the call that produced the next batch.
        half: In `pairing: antithetic`, 0 or 1: two children draw one order, in which every two batches are the halves
            of one super-batch. Each takes its half of all super-batches, then the other half of all. None takes the
            batches in order.
        sizes: Examples of each batch of the epoch; empty for whole batches of the spec's size.

    Yields:
        Inputs [B / ranks, ...] and targets: int64 [B / ranks], or class probabilities [B / ranks, C] where the
        augmentation mixes or smooths labels.

    Raises:
        ValueError: The batch is larger than the training set, or `ranks` does not divide it.
    """
    x, y, size = data.x["train"], data.y["train"], spec.batch_size
    steps = steps_per_epoch(len(y), size)
    if sizes:
        drawn = torch.randperm(len(y), generator=order).to(y.device)
        yield from _planned(data, spec, augment, drawn, sizes, ranks, done)
        return
    if size % ranks:
        raise ValueError(f"batch_size must be a multiple of the {ranks} processes that share it, got {size}")
    own = slice(rank * size // ranks, (rank + 1) * size // ranks)
    index = torch.randperm(len(y), generator=order).to(y.device)[: steps * size]
    if half is not None:
        index = index.reshape(steps, size)[_take_halves(steps, half)].flatten()
    at_once = augmentation_chunk(size, x.shape)
    before, within = divmod(done * size, at_once)
    batches = _augmented(data, spec, augment, torch.split(index, at_once)[before:])
    for image, target in islice(batches, within // size, None):
        yield image[own], target[own]


def _planned(
    data: Data, spec: PairSpec, augment: Generator, order: Tensor, sizes: Sequence[int], ranks: int, done: int
) -> Iterator[Batch]:
    """Yield batches of their own sizes; whole ones share an augmentation call as far as it has room."""
    if ranks > 1:
        raise ValueError(
            f"noise_schedule.by must be learning_rate if several processes train a child, got {ranks} processes"
        )
    before = 0
    for count in group_batches(sizes, data.x["train"].shape):
        own = list(sizes[before : before + count])
        if before + count > done:
            start = sum(sizes[:before])
            parts = [order[start : start + sum(own)]]
            batches = _augmented(data, spec, augment, parts, own)
            yield from islice(batches, max(0, done - before), None)
        before += count


def _take_halves(steps: int, half: int) -> list[int]:
    """Return the batches of an epoch in the order of a child; a last batch without a partner comes last."""
    paired = range(steps - steps % 2)
    return [*paired[half::2], *paired[1 - half :: 2], *range(len(paired), steps)]


def _augmented(
    data: Data, spec: PairSpec, augment: Generator, parts: Sequence[Tensor], sizes: list[int] | None = None
) -> Iterator[Batch]:
    x, y, size = data.x["train"], data.y["train"], sizes or spec.batch_size
    for images, part in zip(x.batches(parts), parts, strict=True):
        images, targets = augmented(
            spec.augmentation, spec.augmentation_strength, images, y[part], data.classes, augment
        )
        yield from zip(torch.split(images, size), torch.split(targets, size), strict=True)


def halves(data: Data, seed: int) -> tuple[Data, Data]:
    """Return two data sets with disjoint, equally large halves of the training split, every class in proportion.

    Of text, the halves are random windows.

    Args:
        data: Validation and test splits stay whole.
        seed: Seed of the draw.

    Raises:
        DataError: Fewer than two training examples.
    """
    y = data.y["train"].cpu().numpy()
    classes = y if data.context is None else np.zeros(len(y), dtype=np.int64)
    first, second = split_stratified(np.random.default_rng(seed), classes, (len(y) // 2, len(y) // 2))
    return data.subset(torch.as_tensor(first)), data.subset(torch.as_tensor(second))
