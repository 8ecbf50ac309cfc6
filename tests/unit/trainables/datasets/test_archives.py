"""Archives of images unpack within bounds, as plain files, and nowhere else."""

import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from trainables.datasets.archives import BOUNDS, Bounds, unpack
from trainables.datasets.decoding import MOST_PIXELS, decode

ENDINGS = ("tar.xz", "tar.gz", "tar", "zip")
SMALL = Bounds(total=1 << 20, ratio=50, small=10_000, file=200_000, entries=20, spare=0)
Write = Callable[[Path, dict[str, bytes]], Path]


def write(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of files; a name with / at its end is a folder."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content))
    return path


def refused(path: Path, bounds: Bounds = BOUNDS) -> str:
    """Unpack an archive that must be refused, with nothing left behind; return the one line."""
    before = {p for p in path.parent.rglob("*") if p.name != "cache" and "cache" not in p.parts}
    with pytest.raises(ValueError, match=rf"^archive {path} cannot be unpacked: ") as caught:
        unpack(path, path.parent / "cache", bounds)
    assert {p for p in path.parent.rglob("*") if p.name != "cache" and "cache" not in p.parts} == before
    assert [p for p in (path.parent / "cache" / "archives").iterdir() if p.suffix != ".lock"] == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_within_the_bounds_is_unpacked_as_it_was(tmp_path: Path, ending: str) -> None:
    files = {"top/a/1.png": os.urandom(3000), "top/b/2.png": b"", "top/grün/3 ö.png": b"x" * 5000}
    folder = unpack(write(tmp_path / f"set.{ending}", {"top/empty/": b"", **files}), tmp_path / "cache", SMALL)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
    assert (folder / "top" / "empty").is_dir()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("files", "bounds", "sentence"),
    [
        ({f"{i}.png": os.urandom(150_000) for i in range(8)}, {}, "unpacks to more than 1048576 bytes"),
        ({"a.png": os.urandom(200_001)}, {}, "'a.png' has 200001 bytes, more than 200000 for one file"),
        ({f"{i}.png": b"" for i in range(21)}, {}, "holds more than 20 files and folders"),
        ({f"{i}/": b"" for i in range(21)}, {}, "holds more than 20 files and folders"),
        ({"a.png": os.urandom(9000)}, {"spare": 1 << 60}, "unpacks to more than the 0 bytes free on the disk"),
        ({"../evil.png": b"bad"}, {}, "'../evil.png' leads outside its folder"),
        ({"a/../../evil.png": b"bad"}, {}, "leads outside its folder"),
        ({"/evil.png": b"bad"}, {}, "'/evil.png' leads outside its folder"),
        ({"a\\..\\evil.png": b"bad"}, {}, "leads outside its folder"),
        ({"a\x1b[31m.png": b"bad"}, {}, r"'a\x1b[31m.png' holds control or format characters"),
    ],
    ids=["total", "file", "files", "folders", "disk", "up", "deep up", "root", "backslash", "escape"],
)  # fmt: skip
def test_what_is_beyond_a_bound_is_refused_in_one_line(
    tmp_path: Path, ending: str, files: dict[str, bytes], bounds: dict[str, int], sentence: str
) -> None:
    said = refused(write(tmp_path / f"set.{ending}", files), Bounds(**{**vars(SMALL), **bounds}))
    assert sentence in said
    assert said.endswith("; unpack it yourself and name its folder")


@pytest.mark.parametrize("ending", ["tar.xz", "tar.gz", "zip"])
def test_what_unpacks_to_a_multiple_of_its_size_is_refused(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"set.{ending}", {"a.png": b"\0" * 150_000})
    size = path.stat().st_size
    said = refused(path, Bounds(**{**vars(SMALL), "ratio": 20}))
    assert f"it unpacks to more than {max(SMALL.small, 20 * size)} bytes, 20 times its size of {size}" in said


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("a/out")
        info.type, info.linkname = kind, "b"
        tar.addfile(info)
    assert "'a/out' is a link or a device" in refused(path)
    packed = tmp_path / "set.zip"
    with zipfile.ZipFile(packed, "w") as file:
        entry = zipfile.ZipInfo("a/out")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/etc")
    assert "'a/out' is a link or a device" in refused(packed)


def test_methods_of_zip_that_expand_without_a_bound_and_passwords_are_refused(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            file.writestr("a.png", b"\0" * 1000)
        assert "compressed by a method other than deflate" in refused(path)
    locked = write(tmp_path / "locked.zip", {"a.png": b"x"})
    content = bytearray(locked.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + offset] |= 1
    locked.write_bytes(content)
    assert "'a.png' is encrypted" in refused(locked)


def test_a_header_that_is_larger_than_any_header_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * (50 << 20)}
        tar.addfile(info)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    assert "a header in it has more than 1048576 bytes" in refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_the_bounds_hold_by_default(tmp_path: Path) -> None:
    """0.4 MB that unpacked to 400 MB."""
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for i in range(4):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = 100 << 20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    assert path.stat().st_size < 500_000
    assert f"it unpacks to more than {64 << 20} bytes" in refused(path)


def test_an_image_of_more_pixels_than_memory_is_for_is_not_decoded(tmp_path: Path) -> None:
    Image.new("1", (16384, 4097)).save(tmp_path / "large.png")
    with pytest.raises(OSError, match=f"large.png: it has 16384 x 4097 pixels, more than {MOST_PIXELS}"):
        decode(tmp_path / "large.png", 8, 1)
