from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.datasets import DATASETS, Data, DataError, flip_labels, load
from trainables.result import SPLITS
from trainables.runtime import Runtime


def _load(name: str = "digits", root: str | None = None, **options: object) -> Data:
    return load(name, options, Runtime(data_root=root), torch.float32)


def _rows(images: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in images.reshape(len(images), -1).astype(np.uint8)}


def _pixels(data: Data, split: str) -> np.ndarray:
    # undo the normalisation: digits hold whole numbers 0..16
    from sklearn.datasets import load_digits

    low, high = (float(load_digits().images.min()), float(load_digits().images.max()))
    x = torch.cat([data.x[s][:] for s in SPLITS])
    scale = (high - low) / float(x.max() - x.min())
    return np.rint((data.x[split][:].numpy() - float(x.min())) * scale + low)


def test_digits_are_split_720_180_897_disjoint_and_whole() -> None:
    from sklearn.datasets import load_digits

    data = _load()
    assert {s: tuple(data.x[s].shape) for s in SPLITS} == {
        "train": (720, 1, 8, 8), "val": (180, 1, 8, 8), "test": (897, 1, 8, 8),
    }  # fmt: skip
    assert data.examples == 720
    parts = [_rows(_pixels(data, s)) for s in SPLITS]
    whole = _rows(load_digits().images)
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole) == 1797  # all 1797 images differ, so the parts are disjoint


def test_labels_follow_their_images() -> None:
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), _load()
    label_of = {row.astype(np.uint8).tobytes(): int(y) for row, y in zip(bunch.data, bunch.target, strict=True)}
    for split in SPLITS:
        pixels = _pixels(data, split).reshape(len(data.y[split]), -1).astype(np.uint8)
        assert [label_of[p.tobytes()] for p in pixels] == data.y[split].tolist()


def test_splits_are_stratified() -> None:
    data = _load()
    counts = {s: torch.bincount(data.y[s], minlength=10) for s in SPLITS}
    total = sum(counts.values())
    for split, n in {"train": 720, "val": 180, "test": 897}.items():
        assert torch.all((counts[split] - total * n / 1797).abs() <= 1.5)


def test_training_inputs_are_normalised_by_training_statistics() -> None:
    x = _load().x["train"][:].double()
    assert float(x.mean()) == pytest.approx(0, abs=1e-6)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_splits_are_fixed_by_their_seed() -> None:
    first, again, other = DATASETS["digits"](None), DATASETS["digits"](None), DATASETS["digits"](None, split_seed=1)
    for split in SPLITS:
        assert torch.equal(first.x[split][:], again.x[split][:])
        assert torch.equal(first.y[split], again.y[split])
        assert not torch.equal(first.y[split], other.y[split])


def test_label_noise_flips_a_fifth_of_the_training_labels_to_other_classes() -> None:
    clean, noisy = _load(), _load(label_noise=0.2)
    assert int((clean.y["train"] != noisy.y["train"]).sum()) == 144  # 20 % of 720
    for split in SPLITS:
        assert torch.equal(clean.x[split][:], noisy.x[split][:])
    assert torch.equal(clean.y["val"], noisy.y["val"])
    assert torch.equal(clean.y["test"], noisy.y["test"])


@pytest.mark.parametrize(("share", "flipped"), [(0.0, 0), (0.25, 15_000), (1.0, 60_000)])
def test_flips_are_uniform_over_the_other_classes(share: float, flipped: int) -> None:
    y = torch.arange(60_000) % 6
    noisy = flip_labels(y, 6, share, seed=3)
    moved = (noisy - y) % 6
    assert int((moved != 0).sum()) == flipped
    counts = torch.bincount(moved[moved != 0], minlength=6)[1:].double()
    assert torch.all((counts - flipped / 5).abs() <= 5 * (flipped * 0.2 * 0.8) ** 0.5)
    assert torch.equal(y, torch.arange(60_000) % 6)


def test_wrong_options_say_so() -> None:
    with pytest.raises(DataError, match=r"label_noise must lie in \[0, 1\], got 1.5"):
        _load(label_noise=1.5)
    with pytest.raises(DataError, match=r"data set 'digits' does not take these dataset_options: .*labelnoise"):
        _load(labelnoise=0.2)


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none was given; .*FashionMNIST\('ROOT', download=True\).* pass --data ROOT"):
        _load("fashion_mnist")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").touch()
    with pytest.raises(DataError, match=f"{raw} lacks train-labels-idx1-ubyte, t10k-images") as error:
        _load("fashion_mnist", str(tmp_path))
    assert "train-images" not in str(error.value)


@pytest.mark.data
def test_fashion_mnist_from_real_files(data_root: str) -> None:
    options = {"train": 300, "val": 100, "test": 200}
    data = _load("fashion_mnist", data_root, **options)
    for split, n in options.items():
        assert data.x[split].shape == (n, 1, 28, 28)
        assert torch.bincount(data.y[split]).tolist() == [n // 10] * 10
    flat: list[Tensor] = [data.x[s][:].flatten(1) for s in SPLITS]
    assert len(torch.unique(torch.cat(flat), dim=0)) == 600
    assert float(data.x["train"][:].mean()) == pytest.approx(0, abs=1e-5)
    with pytest.raises(DataError, match="got train 60000 \\+ val 100 and test 200"):
        _load("fashion_mnist", data_root, train=60_000, val=100, test=200)


def _tiny(**changes: object) -> Data:
    x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    fields = {"x": dict.fromkeys(SPLITS, x), "y": dict.fromkeys(SPLITS, y), "classes": 2}
    return Data(**{**fields, **changes})  # type: ignore[arg-type]


def test_data_checks_what_a_user_hands_in() -> None:
    x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    assert _tiny().examples == 4
    with pytest.raises(DataError, match="splits train, val, test; val is missing"):
        _tiny(x={"train": x, "test": x})
    with pytest.raises(DataError, match="split test has 4 inputs and 3 labels"):
        _tiny(y={"train": y, "val": y, "test": y[:3]})
    with pytest.raises(DataError, match="split val has 0 inputs and 0 labels"):
        _tiny(x={"train": x, "val": x[:0], "test": x}, y={"train": y, "val": y[:0], "test": y})
    with pytest.raises(DataError, match=">= 2 classes, got 1"):
        _tiny(classes=1)
    with pytest.raises(DataError, match=r"labels must lie in \[0, 2\), got up to 2"):
        _tiny(y={"train": y, "val": y + 1, "test": y})


def test_inputs_take_the_dtype_and_labels_keep_theirs() -> None:
    data = load("digits", {}, Runtime(), torch.float64)
    assert {v[:2].dtype for v in data.x.values()} == {torch.float64}
    assert {v.dtype for v in data.y.values()} == {torch.int64}
