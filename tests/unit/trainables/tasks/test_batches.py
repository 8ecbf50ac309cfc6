from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from trainables.datasets.augmentation import AUGMENTATIONS, augment
from trainables.datasets.dataset import Data, DataError
from trainables.result import SPLITS
from trainables.spec import PairSpec
from trainables.tasks.batches import augmentation_chunk, epoch_batches, group_batches, halves, steps_per_epoch

SPEC = PairSpec("any", "any", learning_rate=0.1, batch_size=12, augmentation_strength=0.8)
every_augmentation = pytest.mark.parametrize("name", [*sorted(AUGMENTATIONS), "crop_flip+mixup"])


def _data(n: int = 52, streamed: bool = False) -> Data:
    g = Generator().manual_seed(0)
    x = {s: torch.randint(0, 256, (n, 3, 8, 8), generator=g, dtype=torch.uint8) for s in SPLITS}
    data = Data(x, {s: torch.randint(0, 5, (n,), generator=g) for s in SPLITS}, 5)
    if streamed:
        data = replace(data, x={s: v.to_streamed("cpu", torch.float32, 0) for s, v in data.x.items()})
    return data


def _epoch(data: Data, spec: PairSpec, rank: int = 0, ranks: int = 1) -> list[tuple[Tensor, Tensor]]:
    return list(epoch_batches(data, spec, Generator().manual_seed(1), Generator().manual_seed(2), rank, ranks))


def test_steps_drop_the_last_incomplete_batch() -> None:
    assert [steps_per_epoch(52, b) for b in (1, 12, 26, 52)] == [52, 4, 2, 1]
    with pytest.raises(ValueError, match="batch_size must be <= the 52 training examples, got 53"):
        steps_per_epoch(52, 53)
    with pytest.raises(ValueError, match="base batch_size must be <= the 52 training examples, got 53"):
        steps_per_epoch(52, 53, "base batch_size")


@every_augmentation
def test_a_batch_is_the_augmented_chunk_in_the_drawn_order(name: str) -> None:
    data, spec = _data(), replace(SPEC, augmentation=name)
    index = torch.randperm(52, generator=Generator().manual_seed(1))[:48]
    x, target = augment(name, 0.8, data.x["train"][index], data.y["train"][index], 5, Generator().manual_seed(2))
    batches = _epoch(data, spec)
    assert [len(x) for x, _ in batches] == [12] * 4
    assert torch.equal(torch.cat([b[0] for b in batches]), x)
    assert torch.equal(torch.cat([b[1] for b in batches]), target)


@every_augmentation
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_see_what_one_process_sees(name: str, ranks: int) -> None:
    data, spec = _data(), replace(SPEC, augmentation=name)
    parts = [_epoch(data, spec, rank, ranks) for rank in range(ranks)]
    for whole, *shares in zip(_epoch(data, spec), *parts, strict=True):
        assert all(len(x) == len(y) == 12 // ranks for x, y in shares)
        assert torch.equal(torch.cat([x for x, _ in shares]), whole[0])
        assert torch.equal(torch.cat([y for _, y in shares]), whole[1])


@every_augmentation
def test_streamed_batches_are_the_resident_ones(name: str) -> None:
    spec = replace(SPEC, augmentation=name)
    for (x, y), (xs, ys) in zip(_epoch(_data(), spec), _epoch(_data(streamed=True), spec), strict=True):
        assert torch.equal(x, xs)
        assert torch.equal(y, ys)


def test_batches_of_their_own_sizes_share_the_drawn_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.tasks.batches.AUGMENT_IMAGES", 20)
    data, sizes = _data(), (5, 12, 7, 24)
    assert group_batches(sizes, data.x["train"].shape) == [2, 1, 1]

    def epoch(done: int, augment: Generator) -> list[tuple[Tensor, Tensor]]:
        order = Generator().manual_seed(1)
        spec = replace(SPEC, augmentation="crop_flip+mixup")
        return list(epoch_batches(data, spec, order, augment, done=done, sizes=sizes))

    whole = epoch(0, Generator().manual_seed(2))
    assert [len(x) for x, _ in whole] == list(sizes)
    plain = list(epoch_batches(data, SPEC, Generator().manual_seed(1), Generator(), sizes=sizes))
    index = torch.randperm(52, generator=Generator().manual_seed(1))[:48]
    assert torch.equal(torch.cat([y for _, y in plain]), data.y["train"][index])
    # the second call draws where the first one ended
    again = Generator().manual_seed(2)
    rest = epoch(1, again)
    assert all(
        torch.equal(a, b) for one, other in zip(rest, whole[1:], strict=True) for a, b in zip(one, other, strict=True)
    )
    with pytest.raises(
        ValueError, match=r"noise_schedule\.by must be learning_rate if several processes train a child"
    ):
        next(epoch_batches(data, SPEC, Generator(), Generator(), 0, 2, sizes=sizes))


def test_equal_batches_share_a_call_as_before() -> None:
    shape = torch.Size([1, 3, 64, 64])
    for size, count in ((1, 5000), (16, 300), (100, 90), (4097, 3)):
        calls, most = group_batches([size] * count, shape), augmentation_chunk(size, shape) // size
        assert calls == [most] * (count // most) + [count % most] * bool(count % most)


def test_ranks_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 5 processes that share it, got 12"):
        _epoch(_data(), SPEC, 0, 5)


def test_chunks_are_whole_batches_bounded_by_images_and_by_bytes() -> None:
    small, photo = torch.Size([1, 3, 64, 64]), torch.Size([1, 3, 224, 224])
    assert [augmentation_chunk(b, small) for b in (1, 16, 100, 4097)] == [4096, 4096, 4000, 4097]
    assert [augmentation_chunk(b, photo) for b in (1, 16, 128, 1024)] == [445, 432, 384, 1024]


def test_chunks_continue_the_same_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    data, spec = _data(), replace(SPEC, augmentation="shift")
    monkeypatch.setattr("trainables.tasks.batches.AUGMENT_IMAGES", 24)
    index, generator = torch.randperm(52, generator=Generator().manual_seed(1))[:48], Generator().manual_seed(2)
    parts = [augment("shift", 0.8, data.x["train"][i], data.y["train"][i], 5, generator)[0] for i in index.split(24)]
    assert torch.equal(torch.cat([x for x, _ in _epoch(data, spec)]), torch.cat(parts))


def test_halves_are_disjoint_equal_and_stratified() -> None:
    data = _data(201)
    data.y["train"][:] = (torch.arange(201) > 150).long()  # three quarters and one
    a, b = halves(data, 3)
    assert a.examples == b.examples == 100
    assert [int(part.y["train"].sum()) for part in (a, b)] == [25, 25]
    rows = [{bytes(image.numpy().tobytes()) for image in part.x["train"][:]} for part in (a, b, data)]
    assert len(rows[0]) == len(rows[1]) == 100
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] < rows[2]
    assert len(a.x["val"]) == len(a.y["test"]) == 201
    again, other = halves(data, 3)[0], halves(data, 4)[0]
    assert torch.equal(again.x["train"][:], a.x["train"][:])
    assert not torch.equal(other.x["train"][:], a.x["train"][:])
    with pytest.raises(DataError, match="split train has 0 inputs"):
        halves(data.subset(torch.tensor([0])), 0)
