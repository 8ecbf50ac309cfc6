"""Inputs: resident and streamed ones are the same numbers."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from trainables.datasets.images import Inputs, Resident, Streamed, wrap_inputs
from trainables.datasets.sources import Stored, free_bytes, normalisation, read_ahead

PARTS = [torch.tensor([3, 0, 3]), torch.tensor([19]), torch.arange(20)]
# 3.12 warns of every fork of a process with threads
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def _pixels(n: int = 20, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (n, channels, 4, 5), generator=Generator().manual_seed(0), dtype=torch.uint8)


def _resident(dtype: torch.dtype = torch.float32) -> Resident:
    mean, std = normalisation([_pixels()])
    return Resident(_pixels(), mean, std, dtype)


def _streamed(dtype: torch.dtype = torch.float32, workers: int = 0) -> Streamed:
    return _resident(dtype).to_streamed("cpu", dtype, workers)


KINDS: dict[str, Callable[[], Inputs]] = {
    "resident": _resident,
    "streamed": _streamed,
    "two processes": lambda: _streamed(workers=2),
    "floats": lambda: Resident(_resident()[:]),
    "streamed floats": lambda: Resident(_resident()[:]).to_streamed("cpu", torch.float32, 0),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _wanted() -> Tensor:
    values = _pixels().numpy().astype(np.float32)
    mean, std = (f(_pixels().numpy().astype(np.float64), axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return torch.as_tensor((values - mean[0].astype(np.float32)) / std[0].astype(np.float32))


@forks
@every_kind
def test_all_kinds_give_the_same_bits(kind: str) -> None:
    x, wanted = KINDS[kind](), _wanted()
    assert (x.shape, len(x), x.device.type, x.dtype) == ((20, 3, 4, 5), 20, "cpu", torch.float32)
    assert torch.equal(x[:], wanted)
    assert torch.equal(x[2:9:3], wanted[2:9:3])
    assert torch.equal(x[PARTS[0]], wanted[PARTS[0]])
    for got, part in zip(x.batches(iter(PARTS)), PARTS, strict=True):
        assert torch.equal(got, wanted[part])
    assert [len(part) for part in x.split(8)] == [8, 8, 4]
    assert torch.equal(torch.cat(list(x.split(8))), wanted)


@forks
@every_kind
def test_subsets_of_subsets(kind: str) -> None:
    index, again = torch.tensor([7, 3, 11, 0]), torch.tensor([2, 0])
    x, wanted = KINDS[kind]().subset(index), _wanted()[index]
    assert (len(x), x.shape) == (4, (4, 3, 4, 5))
    assert torch.equal(x[:], wanted)
    assert torch.equal(x[1:3], wanted[1:3])
    assert torch.equal(x.subset(again)[:], wanted[again])
    assert torch.equal(next(x.batches([again])), wanted[again])
    assert torch.equal(x.to("cpu", torch.float64).subset(again)[:], wanted[again].double())


@every_kind
def test_normalisation_is_in_float32_whatever_the_dtype(kind: str) -> None:
    x = KINDS[kind]().to("cpu", torch.float64)
    assert x.dtype == torch.float64
    assert torch.equal(x[:], _wanted().double())
    assert torch.equal(next(x.batches([PARTS[0]])), _wanted()[PARTS[0]].double())


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_an_access_never_changes_what_is_stored(kind: str) -> None:
    x = KINDS[kind]()
    x[:].zero_()
    next(x.batches([PARTS[2]])).zero_()
    assert torch.equal(x[:], _wanted())


def test_normalisation_does_not_depend_on_parts_and_survives_blank_channels() -> None:
    pixels = _pixels(50)
    pixels[:, 1] = 7
    whole, parts = normalisation([pixels]), normalisation(torch.split(pixels, 7))
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    assert whole[0].shape == whole[1].shape == (3, 1, 1)
    assert (float(whole[0][1]), float(whole[1][1])) == (7.0, 1.0)
    values = pixels[:, 2].numpy().astype(np.float64)
    assert float(whole[0][2]) == pytest.approx(values.mean(), rel=1e-7)
    assert float(whole[1][2]) == pytest.approx(values.std(), rel=1e-7)


def test_wrapped_normalises_uint8_by_the_training_split_and_leaves_floats() -> None:
    pixels = {"train": _pixels(), "val": _pixels(6) // 2}
    x = wrap_inputs(pixels)
    mean, std = normalisation([pixels["train"]])
    assert torch.equal(x["val"][:], (pixels["val"].float() - mean) / std)
    assert float(x["train"][:].mean()) == pytest.approx(0, abs=1e-6)
    floats = torch.randn(3, 1, 2, 2, dtype=torch.float64)
    again = wrap_inputs({"train": floats, "val": x["val"]})
    assert again["train"][:].data_ptr() == floats.data_ptr()
    assert again["val"] is x["val"]


@forks
def test_reading_ahead_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    for workers in (0, 2):
        assert len(list(read_ahead(Stored(_pixels()).read, PARTS, workers))) == 3
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(read_ahead(Stored(_pixels()).read, [], 2)) == []


@forks
def test_more_processes_than_cores_read_without_a_warning() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert len(list(read_ahead(Stored(_pixels()).read, PARTS, 2))) == 3
    finally:
        os.sched_setaffinity(0, before)


@forks
def test_two_iterators_over_the_same_inputs_do_not_meet() -> None:
    x = _streamed(workers=1)
    pairs = list(zip(x.batches(PARTS), x.batches(PARTS[::-1]), strict=True))
    for (one, other), part, back in zip(pairs, PARTS, PARTS[::-1], strict=True):
        assert torch.equal(one, _wanted()[part])
        assert torch.equal(other, _wanted()[back])


def test_bytes_stored_and_free() -> None:
    assert _resident().stored_bytes == _streamed().stored_bytes == 20 * 3 * 4 * 5
    assert Resident(_resident()[:]).stored_bytes == 4 * 20 * 3 * 4 * 5
    assert 2**20 < free_bytes("cpu") < 2**50
