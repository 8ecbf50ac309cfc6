from __future__ import annotations

import pickle
import struct
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

from trainables.datasets import load as datasets
from trainables.datasets import torchvision
from trainables.datasets.images import Streamed
from trainables.datasets.load import DATASETS, Data, DataError, flip_labels, forget, load
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
    with pytest.raises(DataError, match=r"data set 'digits' has no option 'labelnoise'; did you mean label_noise\?$"):
        _load(labelnoise=0.2)
    with pytest.raises(DataError, match="option size of data set 'digits' must be a whole number, got 'big'"):
        _load(size="big")


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (16, 1), (32, 3), (5, 3)])
def test_digits_of_other_sizes_and_channels(size: int, channels: int) -> None:
    plain, data = _load(), _load(size=size, channels=channels)
    for split, n in {"train": 720, "val": 180, "test": 897}.items():
        x = data.x[split][:]
        assert x.shape == data.x[split].shape == (n, channels, size, size)
        assert torch.equal(x, x[:, :1].expand_as(x))
        assert torch.equal(data.y[split], plain.y[split])
        wanted = torch.nn.functional.interpolate(plain.x[split][:], (size, size), mode="bilinear")
        # 256 levels of a range of 16, whose deviation changes with the size
        both = torch.stack([x[:, 0].flatten(), wanted.flatten()]).double()
        assert float(torch.corrcoef(both)[0, 1]) > 0.99998
    assert float(data.x["train"][:].std(correction=0)) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="size and channels of digits must be >= 1, got 0 and 1"):
        _load(size=0)


def test_a_builder_that_takes_runtime_gets_it_and_others_do_not(own_registries: None) -> None:
    seen: list[object] = []

    @DATASETS.register("plain")
    def plain(root: Path | None, *, seed: int = 0) -> Data:
        seen.append((root, seed))
        return _tiny()

    @DATASETS.register("knowing")
    def knowing(root: Path | None, *, runtime: Runtime) -> Data:
        seen.append((root, runtime.cache))
        return _tiny()

    assert load("plain", {"seed": 3}, Runtime(data_root="somewhere"), torch.float32).name == "plain"
    load("knowing", {}, Runtime(cache="here"), torch.float32)
    assert seen == [(Path("somewhere"), 3), (None, "here")]
    with pytest.raises(DataError, match="data set 'knowing' has no option 'runtime'"):
        load("knowing", {"runtime": 1}, Runtime(), torch.float32)


def test_what_does_not_concern_data_makes_no_second_copy() -> None:
    first = load("digits", {}, Runtime(), torch.float32)
    assert load("digits", {}, Runtime(threads=3, measure=0, bases="b"), torch.float32) is first
    assert load("digits", {}, Runtime(), torch.float64) is not first
    forget()
    assert load("digits", {}, Runtime(), torch.float32) is not first


def test_what_is_too_large_for_the_device_is_streamed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "free_bytes", lambda device: 1_000_000)
    data = _load()  # 1,797 x 64 bytes
    for share, fits in {0.12: True, 0.11: False, 0.0: False}.items():
        assert datasets._fits(data, Runtime(device="cuda:0", resident_share=share)) is fits
        assert datasets._fits(data, Runtime(device="cpu", resident_share=share))
    streamed = datasets._stream_images(data, Runtime(loader_workers=0), torch.float32)
    again = datasets._stream_images(streamed, Runtime(loader_workers=0), torch.float32)
    for split in SPLITS:
        assert type(streamed.x[split]) is type(again.x[split]) is Streamed
        assert torch.equal(streamed.x[split][:], data.x[split][:])
        assert torch.equal(again.x[split][:], data.x[split][:])


# -- torchvision's own ------------------------------------------------------------------------------------------------


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"needs a data root; .*FashionMNIST\('ROOT', download=True\).* pass --data ROOT"
    ):
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


OFFICIAL = {o.name: o for o in torchvision.OFFICIAL}


def _idx(path: Path, values: np.ndarray) -> None:
    # the official format: magic number (type 8 = uint8, dimensions), sizes, values
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def _official_files(name: str, root: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write 200 + 100 random images in the official format; return images [n, c, h, w] and labels by part."""
    rng, classes = np.random.default_rng(0), OFFICIAL[name].classes
    shape = (1, 28, 28) if name.endswith("mnist") else (3, 32, 32)
    made = {
        part: (rng.integers(0, 256, (n, *shape), np.uint8), rng.permutation(np.arange(n) % classes))
        for part, n in {"train": 200, "test": 100}.items()
    }
    folder = root / OFFICIAL[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith("mnist"):
        for prefix, (images, labels) in zip(("train", "t10k"), made.values(), strict=True):
            _idx(folder / f"{prefix}-images-idx3-ubyte", images[:, 0])
            _idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    elif name == "svhn":
        for part, (images, labels) in made.items():
            # the digit 0 has label 10 there
            content = {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]}
            scipy.io.savemat(folder / f"{part}_32x32.mat", content)
    else:
        _cifar_files(name, folder, made)
    return made


def _cifar_files(name: str, folder: Path, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    ten = name == "cifar10"

    def batch(file: str, images: np.ndarray, labels: np.ndarray) -> None:
        content = {"data": images.reshape(len(images), -1), "labels" if ten else "fine_labels": labels.tolist()}
        (folder / file).write_bytes(pickle.dumps(content))

    images, labels = made["train"]
    for i, part in enumerate(np.split(np.arange(200), 5 if ten else 1), 1):
        batch(f"data_batch_{i}" if ten else "train", images[part], labels[part])
    batch("test_batch" if ten else "test", *made["test"])
    names = {"label_names" if ten else "fine_label_names": [str(c) for c in range(OFFICIAL[name].classes)]}
    (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(names))


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cifar", "svhn"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).is_file()
        )


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_are_read_and_split(name: str, tmp_path: Path, no_checksums: None) -> None:
    made, classes = _official_files(name, tmp_path), OFFICIAL[name].classes
    data = _load(name, str(tmp_path), train=100, val=100, test=100)
    assert (data.classes, data.name, bool(data.source)) == (classes, name, True)
    known = {i.tobytes(): int(y) for images, labels in made.values() for i, y in zip(images, labels, strict=True)}
    seen: set[bytes] = set()
    for split in SPLITS:
        rows = [image.numpy().tobytes() for image in data.x[split].values]
        assert [known[row] for row in rows] == data.y[split].tolist()
        assert torch.bincount(data.y[split], minlength=classes).tolist() == [100 // classes] * classes
        seen |= set(rows)
    assert len(seen) == 300  # disjoint
    assert {image.numpy().tobytes() for image in data.x["test"].values} == {i.tobytes() for i in made["test"][0]}
    mean = data.x["train"][:].double().mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    other = _load(name, str(tmp_path), train=100, val=100, test=100, split_seed=1, label_noise=0.5)
    assert not torch.equal(other.y["val"], data.y["val"])
    with pytest.raises(DataError, match=rf"{name} has 200 \+ 100 images, got train 150 \+ val 51 and test 100"):
        _load(name, str(tmp_path), train=150, val=51, test=100)


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_files_with_a_wrong_checksum_are_refused(name: str, tmp_path: Path) -> None:
    _official_files(name, tmp_path)
    with pytest.raises(DataError, match=r"a file in .* is damaged or truncated: .*; fetch it again"):
        _load(name, str(tmp_path))


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    _official_files("kmnist", tmp_path)
    path = tmp_path / "KMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"a file in .*raw is damaged or truncated"):
        _load("kmnist", str(tmp_path))


def test_files_are_fetched_only_where_the_user_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(self: object) -> None:
        fetched.append(type(self).__name__)
        _official_files("kmnist", tmp_path / "root")

    monkeypatch.setattr("torchvision.datasets.KMNIST.download", download)
    sizes = {"train": 100, "val": 50, "test": 50}
    where = Runtime(data_root=str(tmp_path / "root"), cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"raw lacks .*KMNIST\('ROOT', download=True\) or --download fetches the files"):
        load("kmnist", sizes, where, torch.float32)
    assert not fetched
    assert load("kmnist", sizes, replace(where, download=True), torch.float32).examples == 100
    assert set(fetched) == {"KMNIST"}
    forget()
    fetched.clear()
    load("kmnist", sizes, replace(where, download=True), torch.float32)
    assert not fetched  # they are there


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", download)
    where = Runtime(data_root=str(tmp_path), cache=str(tmp_path / "cache"), download=True)
    with pytest.raises(DataError, match=r"mnist could not be fetched into .*: .*no route to host"):
        load("mnist", {}, where, torch.float32)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_whole_of_a_real_data_set(name: str, data_root: str) -> None:
    data = _load(name, data_root)
    assert [len(data.y[s]) for s in SPLITS] == [50_000, 10_000, 10_000]
    # published statistics of the 60,000 training images, of which 50,000 are in this split
    published = {"mnist": (0.1307, 0.3081), "fashion_mnist": (0.2860, 0.3530)}[name]
    values = data.x["train"].values.float() / 255
    assert (float(values.mean()), float(values.std())) == pytest.approx(published, abs=1e-3)
    x, y = data.scored("train")
    assert len(x) == len(y) == 10_000
    forget()


# -- Data -------------------------------------------------------------------------------------------------------------


def _tiny(**changes: object) -> Data:
    x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    fields = {"x": dict.fromkeys(SPLITS, x), "y": dict.fromkeys(SPLITS, y), "classes": 2}
    return Data(**{**fields, **changes})  # type: ignore[arg-type]


def test_subset_restricts_the_training_split_alone() -> None:
    data = _load()
    index = torch.tensor([5, 700, 3])
    part = data.subset(index)
    assert part.examples == 3
    assert torch.equal(part.x["train"][:], data.x["train"][index])
    assert torch.equal(part.y["train"], data.y["train"][index])
    assert torch.equal(part.subset(torch.tensor([2])).y["train"], data.y["train"][3:4])
    assert part.x["val"] is data.x["val"]


def test_at_most_10000_fixed_training_examples_are_scored() -> None:
    n = 12_000
    x, y = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1), torch.arange(n) % 2
    data = Data(dict.fromkeys(SPLITS, x), dict.fromkeys(SPLITS, y), 2, name="a")  # type: ignore[arg-type]
    scored, labels = data.scored("train")
    values = scored[:].flatten().long()
    assert len(torch.unique(values)) == len(labels) == 10_000
    assert torch.equal(labels, y[values])
    assert int(values.max()) > 11_900  # not the first ones
    assert torch.equal(data.scored("train")[0][:], scored[:])
    assert not torch.equal(replace(data, name="b").scored("train")[0][:], scored[:])
    assert data.scored("val")[0] is data.x["val"]
    assert len(data.subset(torch.arange(9_000)).scored("train")[1]) == 9_000


def test_data_checks_what_a_user_hands_in() -> None:
    x, y = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    assert _tiny().examples == 4
    with pytest.raises(DataError, match="splits train, val, test; val is missing"):
        _tiny(x={"train": x, "test": x})
    with pytest.raises(DataError, match="split test has 4 inputs and 3 labels"):
        _tiny(y={"train": y, "val": y, "test": y[:3]})
    with pytest.raises(DataError, match="split val has 0 inputs and 0 labels"):
        _tiny(x={"train": x, "val": x[:0], "test": x}, y={"train": y, "val": y[:0], "test": y})
    with pytest.raises(DataError, match=r"one shape, got .*'val': \[1, 2, 3\]"):
        _tiny(x={"train": x, "val": torch.zeros(4, 1, 2, 3), "test": x})
    with pytest.raises(DataError, match=">= 2 classes, got 1"):
        _tiny(classes=1)
    with pytest.raises(DataError, match=r"labels must lie in \[0, 2\), got up to 2"):
        _tiny(y={"train": y, "val": y + 1, "test": y})


def test_inputs_take_the_dtype_and_labels_keep_theirs() -> None:
    data = load("digits", {}, Runtime(), torch.float64)
    assert {v[:2].dtype for v in data.x.values()} == {torch.float64}
    assert {v.dtype for v in data.y.values()} == {torch.int64}
