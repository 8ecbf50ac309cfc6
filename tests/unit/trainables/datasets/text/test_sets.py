from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.trainables.datasets.text.test_tokenizer import make_tokenizer
from trainables.datasets.dataset import DataError
from trainables.datasets.load import DATASETS, load
from trainables.datasets.text.sets import NAMED
from trainables.runtime import Runtime

TEXT = bytes(range(256)) * 8


def test_splits_are_contiguous_parts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    data = load("text", {"path": "a.txt", "context": 16}, Runtime(data_root=str(tmp_path)), torch.float32)
    sizes = {s: len(x) for s, x in data.x.items()}
    assert sizes == {"train": (2048 - 204 - 1) // 16, "val": 101 // 16, "test": 101 // 16}
    assert (data.name, data.tokenizer, data.classes, data.bytes_per_token) == ("text", "bytes", 256, 1.0)
    starts = [int(data.x[s][slice(0, 1)][0, 0]) for s in ("train", "val", "test")]
    assert starts == [0, (2048 - 204) % 256, (2048 - 102) % 256]


def test_given_files_are_splits(tmp_path: Path) -> None:
    for name in ("a", "v", "t"):
        (tmp_path / f"{name}.txt").write_bytes(name.encode() * 40)
    options = {"path": "a.txt", "val_path": "v.txt", "test_path": "t.txt", "context": 8}
    data = load("text", options, Runtime(data_root=str(tmp_path)), torch.float32)
    assert {s: set(x[slice(0, 9)].flatten().tolist()) for s, x in data.x.items()} == {
        "train": {ord("a")}, "val": {ord("v")}, "test": {ord("t")}
    }  # fmt: skip


def test_a_tokenizer_gives_fewer_tokens_than_bytes_and_is_run_once(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "words")
    (tmp_path / "a.txt").write_text("the king the queen " * 50)
    runtime = Runtime(data_root=str(tmp_path), cache=str(tmp_path / "cache"))
    options = {"path": "a.txt", "context": 4, "tokenizer": "words", "val_share": 0.2, "test_share": 0.2}
    builder = DATASETS["text"]
    first = builder(tmp_path, runtime=runtime, **options)
    assert first.classes == 5
    assert first.bytes_per_token == pytest.approx(950 / 201)
    (kept,) = (tmp_path / "cache" / "text").glob("*.npz")
    stamp = kept.stat().st_mtime_ns
    again = builder(tmp_path, runtime=runtime, **options)
    assert kept.stat().st_mtime_ns == stamp
    assert torch.equal(first.y["train"], again.y["train"])
    assert again.bytes_per_token == first.bytes_per_token


@pytest.mark.parametrize("named", NAMED, ids=lambda n: n.name)
def test_a_named_corpus_reads_its_files(named: object, tmp_path: Path) -> None:
    for split, name in named.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        text = (split.encode() + (named.separator.encode() or b" ")) * 100
        (tmp_path / name).write_bytes(text)
    data = DATASETS[named.name](tmp_path, context=8, val=2, test=2)
    assert data.context == 8
    assert data.licence == named.licence
    assert len(data.y["val"]) == len(data.y["test"]) == 2
    for name in named.files.values():
        (tmp_path / name).unlink()
    first = next(iter(named.files.values()))
    with pytest.raises(DataError, match=f"{named.name} needs {first} under the data root"):
        DATASETS[named.name](tmp_path)
    with pytest.raises(DataError, match=f"{named.name} needs a data root"):
        DATASETS[named.name](None)


def test_shares_leave_text_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    with pytest.raises(DataError, match="val_share must lie in"):
        DATASETS["text"](tmp_path, path="a.txt", val_share=1.0)
    with pytest.raises(DataError, match="must leave text to train on"):
        DATASETS["text"](tmp_path, path="a.txt", val_share=0.5, test_share=0.5)


def test_sentences_need_no_files() -> None:
    data = DATASETS["sentences"](None, train=50, val=4, test=4)
    words = bytes(data.x["train"][slice(0, 50)].flatten().to(torch.uint8).tolist()).decode()
    assert "king" in words
    assert (data.context, data.classes, len(data.y["val"])) == (32, 256, 4)
    with pytest.raises(DataError, match="number must be >= 1 sentence, got 0"):
        DATASETS["sentences"](None, number=0)
