from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.datasets.dataset import Data, DataError
from trainables.datasets.text.tokens import Tokens, smallest_type, token_data, windows
from trainables.tasks.batches import halves


def _data(noise: float = 0.0, length: int = 1000, **more: object) -> Data:
    streams = {s: (np.arange(length) + k) % 251 for k, s in enumerate(("train", "val", "test"))}
    return token_data("text", streams, 8, 256, 1.0, limits={"val": 5, **more}, noise=(noise, 0))


def test_targets_are_the_next_tokens_and_windows_do_not_overlap() -> None:
    x, y = windows(np.arange(17), 4)
    assert x.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert torch.equal(y, x + 1)
    assert len(windows(np.arange(16), 4)[0]) == 3  # the last window has no last target
    assert windows(np.arange(17), 4, 2)[0][:, 0].tolist() == [0, 8]


def test_tokens_are_stored_small_and_read_as_int64() -> None:
    data = _data()
    x, y = data.x["train"], data.y["train"]
    assert isinstance(x, Tokens)
    assert (x.values.dtype, y.dtype, x[slice(0, 2)].dtype) == (torch.uint8, torch.uint8, torch.int64)
    assert x.shape == (124, 8)
    assert x.stored_bytes == 2 * x.values.numel()
    assert (data.examples, data.context, data.classes, len(data.y["val"])) == (124, 8, 256, 5)
    moved = data.to("cpu", torch.float64).x["train"]
    assert moved[torch.tensor([3, 1])].tolist() == x.values[[3, 1]].tolist()
    streamed = x.subset(torch.tensor([5, 2, 9])).to_streamed("cpu", torch.float32, 0)
    assert torch.equal(torch.cat(list(streamed.split(2))), x.values[[5, 2, 9]].long())
    assert [smallest_type(n) for n in (256, 257, 2**15, 2**15 + 1)] == [
        torch.uint8, torch.int16, torch.int16, torch.int32
    ]  # fmt: skip


def test_label_noise_replaces_a_share_of_the_training_targets_only() -> None:
    clean, noisy = _data(), _data(0.25)
    wrong = clean.y["train"] != noisy.y["train"]
    assert int(wrong.sum()) == round(0.25 * wrong.numel())
    assert torch.equal(clean.y["test"], noisy.y["test"])
    assert torch.equal(clean.x["train"][slice(0, 9)], noisy.x["train"][slice(0, 9)])


def test_few_training_windows_are_scored() -> None:
    streams = {s: np.zeros(40_001, dtype=np.uint8) for s in ("train", "val", "test")}
    data = token_data("text", streams, 16, 256, 1.0, limits={})
    x, y = data.scored("train")
    assert len(x) == len(y) == 2**14 // 16
    assert len(data.scored("val")[1]) == 2500


def test_halves_are_disjoint() -> None:
    data = _data()
    first, second = (half.x["train"][slice(0, 62)][:, 0].tolist() for half in halves(data, 0))
    assert len(first) == len(second) == 62
    both = sorted(first + second)
    assert both == sorted(data.x["train"][slice(0, 124)][:, 0].tolist())


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(DataError, match="split train of the text has 8 tokens, which is less than one window"):
        _data(length=8)
    with pytest.raises(DataError, match="test must be >= 1 window of text, got 0"):
        _data(test=0)
    with pytest.raises(DataError, match="context must be >= 1 token, got 0"):
        token_data("text", {}, 0, 256, 1.0, limits={})
