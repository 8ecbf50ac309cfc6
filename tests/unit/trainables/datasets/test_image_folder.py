"""Image folders and archives; their pictures are written by the tests."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.small_trials import digits_spec
from trainables.datasets.dataset import Data, DataError
from trainables.datasets.decoding import decode
from trainables.datasets.load import forget, load
from trainables.pair.run import run_pair
from trainables.result import SPLITS
from trainables.runtime import Runtime

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forgotten() -> object:
    forget()
    yield
    forget()


def _value(k: int) -> tuple[int, int, int]:
    return (k % 251, (7 * k) % 251, (3 * k) % 251)


def _write(
    folder: Path, counts: dict[str, int], first: int = 0, size: tuple[int, int] = (6, 6), ending: str = "png"
) -> int:
    # picture k is a plain colour that tells k
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            Image.new("RGB", size, _value(first)).save(folder / name / f"{first:04}.{ending}")
            first += 1
    return first


def _load(root: Path, path: str = "set", runtime: dict[str, object] | None = None, **options: object) -> Data:
    where = {"data_root": str(root), "cache": str(root / "cache"), "loader_workers": 0, **(runtime or {})}
    return load("image_folder", {"path": path, "size": 6, **options}, Runtime(**where), torch.float32)  # type: ignore[arg-type]


def _classes(data: Data) -> dict[str, list[int]]:
    return {s: torch.bincount(data.y[s], minlength=data.classes).tolist() for s in SPLITS}


def _shades(data: Data) -> dict[str, set[bytes]]:
    return {s: {image.numpy().tobytes() for image in data.x[s][:]} for s in SPLITS}


# -- layouts ----------------------------------------------------------------------------------------------------------


def test_one_folder_of_classes_is_split_in_proportion(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"cats": 20, "dogs": 40, ".hidden": 3})
    data = _load(tmp_path)
    assert data.classes == 2
    assert _classes(data) == {"train": [14, 28], "val": [2, 4], "test": [4, 8]}
    assert len(set.union(*_shades(data).values())) == 60
    again, other = (_load(tmp_path, split_seed=seed) for seed in (0, 1))
    assert _shades(again) == _shades(data) != _shades(other)


def test_labels_follow_their_images_and_normalisation_the_training_split(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"a": 20, "b": 20, "c": 20})
    data = _load(tmp_path)
    x = data.x["train"][:].double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)
    # red is k itself, and class c holds 20 c ... 20 c + 19
    kept = {s: data.x[s].values[:, 0, 0, 0] for s in SPLITS}  # type: ignore[attr-defined]
    for split in SPLITS:
        assert torch.equal(kept[split] // 20, data.y[split].to(torch.uint8))


def test_folders_of_the_splits_are_used_where_there(tmp_path: Path) -> None:
    k = _write(tmp_path / "set" / "train", {"a": 20, "b": 20})
    k = _write(tmp_path / "set" / "val", {"a": 3, "b": 2}, k)
    assert _classes(_load(tmp_path)) == {"train": [16, 16], "val": [3, 2], "test": [4, 4]}
    _write(tmp_path / "set" / "test", {"a": 1, "b": 5}, k)
    assert _classes(_load(tmp_path, val_share=0.0)) == {"train": [20, 20], "val": [3, 2], "test": [1, 5]}
    assert _classes(_load(tmp_path, train=10, test=2)) == {"train": [5, 5], "val": [3, 2], "test": [0, 2]}


def test_limits_leave_the_other_splits_as_they_are(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"a": 30, "b": 30})
    whole, few = _load(tmp_path), _load(tmp_path, train=8)
    assert few.examples == 8
    for split in ("val", "test"):
        assert sorted(whole.x[split].values.flatten().tolist()) == sorted(few.x[split].values.flatten().tolist())  # type: ignore[attr-defined]


def test_tiny_imagenets_layout(tmp_path: Path) -> None:
    top = tmp_path / "tiny-imagenet-200"
    k = 0
    for name in ("n01", "n02"):
        k = _write(top / "train" / name, {"images": 10}, k, ending="JPEG")
        (top / "train" / name / f"{name}_boxes.txt").write_text("0\n")
    k = _write(top / "val", {"images": 4}, k, ending="JPEG")
    _write(top / "test", {"images": 3}, k, ending="JPEG")
    rows = [f"{20 + i:04}.JPEG\tn0{1 + i % 2}\t0\t0\t62\t62\n" for i in range(4)]
    (top / "val" / "val_annotations.txt").write_text("".join(rows))
    data = _load(tmp_path, "tiny-imagenet-200")
    assert _classes(data) == {"train": [8, 8], "val": [2, 2], "test": [2, 2]}
    assert data.y["val"].tolist() == [0, 1, 0, 1]
    (top / "val" / "val_annotations.txt").write_text(rows[0] + "0021.JPEG\tn09\t0\n")
    with pytest.raises(
        DataError, match=r"val_annotations.txt must hold rows of file, class of .*train, ..., got .*n09"
    ):
        _load(tmp_path, "tiny-imagenet-200", split_seed=1)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    _write(tmp_path / "set" / "train", {"a": 4})
    with pytest.raises(DataError, match=r"train must hold a folder of images for each of >= 2 classes, got \['a'\]"):
        _load(tmp_path)
    _write(tmp_path / "set" / "train", {"b": 4})
    _write(tmp_path / "set" / "val", {"c": 1, "a": 1})
    with pytest.raises(DataError, match="val holds classes that the training images lack: c"):
        _load(tmp_path)
    (tmp_path / "set" / "train" / "d").mkdir()
    with pytest.raises(DataError, match="Found no valid file for the classes d"):
        _load(tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist; path must name a folder or archive"):
        _load(tmp_path, "nowhere")
    (tmp_path / "set.txt").touch()
    with pytest.raises(DataError, match=r"path must name a folder or an archive .*, got .*set.txt"):
        _load(tmp_path, "set.txt")
    with pytest.raises(DataError, match="relative to the data root, which is not set; pass --data ROOT"):
        load("image_folder", {"path": "set"}, Runtime(), torch.float32)
    with pytest.raises(DataError, match="data set 'image_folder' needs the option path"):
        load("image_folder", {}, Runtime(), torch.float32)


def test_options_are_checked(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"a": 10, "b": 10})
    for options, message in {
        "test_share=0": ({"test_share": 0}, r"test_share must lie in \(0, 1\) without a test folder, got 0"),
        "shares": ({"val_share": 0.6, "test_share": 0.6}, "20 examples cannot be split into 12 \\+ 12 \\+ -4"),
        "channels": ({"channels": 2}, "size must be >= 1 and channels 1 or 3, got 6 and 2"),
        "none left": ({"val": 0}, "split val has 0 inputs"),
    }.values():
        with pytest.raises(DataError, match=message):
            _load(tmp_path, **options)
    absolute = load("image_folder", {"path": str(tmp_path / "set"), "size": 4},
                    Runtime(cache=str(tmp_path / "c"), loader_workers=0), torch.float32)  # fmt: skip
    assert absolute.x["train"].shape[1:] == (3, 4, 4)


# -- decoding ---------------------------------------------------------------------------------------------------------


def test_every_mode_becomes_the_wanted_channels(tmp_path: Path) -> None:
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    rgb = np.stack([grey, grey, grey], 2)
    made = {
        "grey": Image.fromarray(grey),
        "rgb": Image.fromarray(rgb),
        "rgba": Image.fromarray(np.concatenate([rgb, np.full((2, 2, 1), 9, np.uint8)], 2)),
        "16 bits": Image.fromarray(grey.astype(np.uint16) * 257),
        "palette": Image.fromarray(rgb).quantize(4),
    }
    for name, image in made.items():
        path = tmp_path / f"{name}.png"
        image.save(path)
        assert decode(path, 2, 1).tolist() == [grey.tolist()], name
        assert decode(path, 2, 3).tolist() == [grey.tolist()] * 3, name
    made["palette"].save(tmp_path / "seen through.png", transparency=bytes([0, 128, 255, 255]))
    assert decode(tmp_path / "seen through.png", 2, 1).tolist() == [grey.tolist()]
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(OSError, match=r"float.tif: its pixels are floating-point numbers of unknown range"):
        decode(tmp_path / "float.tif", 2, 1)
    Image.fromarray(grey.astype(np.int32) * 1000).save(tmp_path / "32.tif")
    with pytest.raises(OSError, match=r"32.tif: its pixels have more than 16 bits"):
        decode(tmp_path / "32.tif", 2, 1)


def test_images_are_scaled_by_the_shorter_side_and_cropped_in_the_middle(tmp_path: Path) -> None:
    # left third, middle third and right third of a wide picture: the middle remains
    wide = np.repeat(np.array([10, 120, 240], np.uint8), 8)[None].repeat(8, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert set(decode(tmp_path / "wide.png", 4, 1)[:, :, 1:3].flatten().tolist()) == {120}
    Image.fromarray(wide.T.copy()).save(tmp_path / "tall.png")
    assert decode(tmp_path / "tall.png", 4, 1)[0].tolist() == decode(tmp_path / "wide.png", 4, 1)[0].T.tolist()


@pytest.mark.parametrize("share", [0.5, 0.0])
@pytest.mark.parametrize("workers", [0, 2])
@forks
def test_unreadable_files_are_named_before_anything_is_trained(tmp_path: Path, share: float, workers: int) -> None:
    _write(tmp_path / "set", {"a": 40, "b": 40})
    runtime: dict[str, object] = {"resident_share": share, "loader_workers": workers}
    bad = [tmp_path / "set" / "a" / f"{k:04}.png" for k in range(7)]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"^2 of 80 images cannot be read: .*; repair or remove them$") as error:
        _load(tmp_path, runtime=runtime)
    assert all(str(path) in str(error.value) for path in bad[:2])
    for path in bad:
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"^7 of 80 images cannot be read: .* and 2 more; repair") as error:
        _load(tmp_path, runtime=runtime)
    assert sum(str(path) in str(error.value) for path in bad) == 5
    for path in bad:
        path.unlink()
    assert _load(tmp_path, runtime=runtime).examples == 51


def test_a_file_that_goes_bad_while_it_is_streamed_is_named(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"a": 10, "b": 10})
    data = _load(tmp_path, runtime={"resident_share": 0.0})
    for path in (tmp_path / "set" / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"7 of 14 images cannot be read"):
        data.x["train"][:]


# -- residency and cache ----------------------------------------------------------------------------------------------


@forks
def test_streamed_and_resident_images_are_the_same_bits(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"a": 30, "b": 30}, size=(9, 7), ending="jpg")
    resident = _load(tmp_path)
    parts = [torch.tensor([5, 1, 30]), torch.arange(42)]
    for workers in (0, 2):
        streamed = _load(tmp_path, runtime={"resident_share": 0.0, "loader_workers": workers})
        assert type(streamed.x["train"]) is not type(resident.x["train"])
        for split in SPLITS:
            assert torch.equal(streamed.y[split], resident.y[split])
            assert torch.equal(streamed.x[split][:], resident.x[split][:])
        for got, wanted in zip(streamed.x["train"].batches(parts), resident.x["train"].batches(parts), strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_the_second_start_reads_the_cache(tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / "set", {"a": 10, "b": 10})
    runtime: dict[str, object] = {"resident_share": share}
    first = _load(tmp_path, runtime=runtime)
    stored = sorted(p.name for p in (tmp_path / "cache" / "images").iterdir())
    forget()
    calls: Counter[str] = Counter()
    monkeypatch.setattr(
        "trainables.datasets.decoding.decode",
        lambda path, size, channels: calls.update([path.name]) or decode(path, size, channels),
    )
    again = _load(tmp_path, runtime=runtime)
    assert not calls
    assert stored == sorted(p.name for p in (tmp_path / "cache" / "images").iterdir())
    assert torch.equal(first.x["train"][:], again.x["train"][:])
    # a file that changed is read anew
    Image.new("RGB", (6, 6), (1, 2, 3)).save(tmp_path / "set" / "a" / "0000.png")
    forget()
    calls.clear()
    _load(tmp_path, runtime=runtime)
    assert sum(calls.values()) == 20


# -- archives ---------------------------------------------------------------------------------------------------------


def _archive(path: Path, folder: Path, top: str) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for p in sorted(folder.rglob("*.png")):
                file.write(p, f"{top}{p.relative_to(folder)}")
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}") as file:
            for p in sorted(folder.rglob("*.png")):
                file.add(p, f"{top}{p.relative_to(folder)}")


@pytest.mark.parametrize("ending", ["tar.xz", "tar.gz", "zip"])
@pytest.mark.parametrize("top", ["", "inside/"])
def test_archives_are_unpacked_once_into_the_cache(tmp_path: Path, ending: str, top: str) -> None:
    _write(tmp_path / "plain", {"a": 10, "b": 10})
    _archive(tmp_path / f"set.{ending}", tmp_path / "plain", top)
    data = _load(tmp_path, f"set.{ending}")
    assert _shades(data) == _shades(_load(tmp_path, "plain"))
    unpacked = [p for p in (tmp_path / "cache" / "archives").iterdir() if p.is_dir()]
    assert len(unpacked) == 1
    times = {p: p.stat().st_mtime_ns for p in unpacked[0].rglob("*")}
    forget()
    _load(tmp_path, f"set.{ending}")
    assert times == {p: p.stat().st_mtime_ns for p in unpacked[0].rglob("*")}


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    _write(root / "plain", {"a": 2, "b": 2})
    with tarfile.open(root / "set.tar.gz", "w:gz") as file:
        file.add(root / "plain", "plain")
        info = tarfile.TarInfo(name)
        info.size = 3
        file.addfile(info, io.BytesIO(b"bad"))
        link = tarfile.TarInfo("plain/out")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    with pytest.raises(DataError, match=r"archive .*set.tar.gz cannot be unpacked"):
        _load(root, "set.tar.gz")
    assert not list(tmp_path.rglob("evil.png"))
    assert not Path("/evil.png").exists()
    assert [p for p in (root / "cache" / "archives").iterdir() if p.suffix != ".lock"] == []


def test_damaged_archives_say_so(tmp_path: Path) -> None:
    _write(tmp_path / "plain", {"a": 20, "b": 20})
    _archive(tmp_path / "whole.tar.xz", tmp_path / "plain", "")
    whole = (tmp_path / "whole.tar.xz").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - b for b in whole[middle : middle + 50]) + whole[middle + 50 :]
    damaged = {"cut": whole[:middle], "junk": b"junk" * 100, "flipped": flipped}
    for name, content in damaged.items():
        (tmp_path / f"{name}.tar.xz").write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}.tar.xz cannot be unpacked: .*if it is damaged, fetch it again"):
            _load(tmp_path, f"{name}.tar.xz")


def test_cifar10_as_jpeg_says_that_it_is_not_the_original(tmp_path: Path) -> None:
    k = _write(tmp_path / "plain" / "train", {"airplane": 10, "truck": 10})
    _write(tmp_path / "plain" / "test", {"airplane": 3, "truck": 5}, k)
    (tmp_path / "cifar10_jpeg").mkdir()
    _archive(tmp_path / "cifar10_jpeg" / "cifar10_jpeg.tar.xz", tmp_path / "plain", "")
    runtime = Runtime(data_root=str(tmp_path), cache=str(tmp_path / "cache"), loader_workers=0)
    data = load("cifar10_jpeg", {"train": 12, "val": 8, "test": 8, "label_noise": 0.5}, runtime, torch.float32)
    assert _classes(data)["val"] == [4, 4]
    assert _classes(data)["test"] == [3, 5]
    assert data.x["train"].shape == (12, 3, 32, 32)
    assert "re-encoded as JPEG: not the original bytes" in data.source
    with pytest.raises(DataError, match=r"20 examples cannot be split into 45000 \+ 5000"):
        load("cifar10_jpeg", {}, runtime, torch.float32)
    with pytest.raises(DataError, match="needs a data root"):
        load("cifar10_jpeg", {}, Runtime(), torch.float32)
    with pytest.raises(DataError, match=r"cifar10_jpeg.tar.xz does not exist"):
        load("cifar10_jpeg", {}, Runtime(data_root=str(tmp_path / "plain")), torch.float32)


@pytest.mark.data
@pytest.mark.ray  # unpacks 60,000 files, and the fast tier is to stay fast
@forks
def test_cifar10_as_jpeg_from_the_real_archive(data_root: str, tmp_path: Path) -> None:
    runtime = Runtime(data_root=data_root, cache=str(tmp_path))
    data = load("cifar10_jpeg", {"train": 3000, "val": 100, "test": 200}, runtime, torch.float32)
    assert {s: tuple(data.x[s].shape) for s in SPLITS} == {
        "train": (3000, 3, 32, 32), "val": (100, 3, 32, 32), "test": (200, 3, 32, 32),
    }  # fmt: skip
    assert _classes(data) == {"train": [300] * 10, "val": [10] * 10, "test": [20] * 10}
    # the whole set's are .4914, .4822, .4465 of 255
    mean = data.x["train"].values.double().mean((0, 2, 3)) / 255  # type: ignore[attr-defined]
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=0.01, rtol=0)


def test_a_trial_gives_the_same_numbers_resident_and_streamed(tmp_path: Path) -> None:
    _write(tmp_path / "set", {"a": 40, "b": 40})
    spec = digits_spec(
        dataset="image_folder", dataset_options={"path": "set", "size": 8}, batch_size=8, augmentation="crop_flip+mixup"
    )
    where = Runtime(data_root=str(tmp_path), cache=str(tmp_path / "cache"), loader_workers=0)
    resident, streamed = (run_pair(spec, replace(where, resident_share=share)) for share in (0.5, 0.0))
    assert resident.result.outcome == "ok"
    assert resident.merges == streamed.merges
    assert resident.history == streamed.history
