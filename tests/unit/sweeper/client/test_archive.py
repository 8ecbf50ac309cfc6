"""Model folders in archives: what comes back, and what a service could send to do harm."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.client.archive import MOST_FILES, pack_folder, unpack_folder
from sweeper.errors import SpecError

FILES = {"README.md": b"card", "model.safetensors": b"w" * 3000, "base/config.json": b"{}"}


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def packed(path: Path, folder: Path) -> Path:
    with path.open("wb") as stream:
        pack_folder(folder, stream)
    return path


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", folder_of(tmp_path / "model", FILES))
    with tarfile.open(archive) as content:
        assert {(e.mtime, e.uid, e.uname, e.mode) for e in content} == {(0, 0, "", 0o644)}
    unpack_folder(archive, tmp_path / "copy")
    found = {p.relative_to(tmp_path / "copy").as_posix(): p.read_bytes() for p in (tmp_path / "copy").rglob("*.*")}
    assert found == FILES
    with pytest.raises(SpecError, match="copy exists; choose another folder"):
        unpack_folder(archive, tmp_path / "copy")
    with pytest.raises(SpecError, match="there is no folder"):
        unpack_folder(archive, tmp_path / "no" / "copy")


def test_an_adapter_names_a_base_that_the_reader_has(tmp_path: Path) -> None:
    def come_back(name: str, base: str, files: dict[str, bytes]) -> str:
        config = json.dumps({"base_model_name_or_path": base, "r": 4}).encode()
        folder = folder_of(tmp_path / name, {**files, "adapter_config.json": config})
        unpack_folder(packed(tmp_path / f"{name}.tar", folder), tmp_path / f"{name}-copy")
        found = json.loads((tmp_path / f"{name}-copy" / "adapter_config.json").read_text())
        assert found["r"] == 4
        return found["base_model_name_or_path"]

    assert come_back("own", "/srv/secret/base", FILES) == str(tmp_path / "own-copy" / "base")
    assert come_back("local", "/srv/secret/llama", {}) == "llama"
    assert come_back("hub", "owner/llama", {}) == "owner/llama"


def test_only_files_of_models_are_packed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", {"config.json": b"{}"})
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(SpecError, match="holds 'link', which is no file of a model"):
        pack_folder(folder, io.BytesIO())
    (folder / "link").unlink()
    folder_of(folder, {"more/deep": b""})
    with pytest.raises(SpecError, match="holds 'more'"):
        pack_folder(folder, io.BytesIO())


def _entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        _entry("../outside"), _entry("/etc/outside"), _entry("base/../../outside"), _entry("base/base/config.json"),
        _entry(".hidden"), _entry("base"), _entry("a\\b"), _entry("a\nb"), _entry("x" * 101),
        _entry("link", tarfile.SYMTYPE, "/etc/passwd"), _entry("hard", tarfile.LNKTYPE, "README.md"),
        _entry("folder", tarfile.DIRTYPE), _entry("device", tarfile.CHRTYPE), _entry("pipe", tarfile.FIFOTYPE),
        _entry("sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=lambda e: f"{e.name[:20]!r} {e.type!r}",
)  # fmt: skip
def test_what_could_do_harm_is_refused_and_nothing_is_written(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as content:
        good = tarfile.TarInfo("README.md")
        good.size = 4
        content.addfile(good, io.BytesIO(b"card"))
        content.addfile(entry)
    with pytest.raises(SpecError, match="the service sent"):
        unpack_folder(archive, tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def _truncated(content: bytes) -> bytes:
    return content[:1500]


def _many(_: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as content:
        for i in range(MOST_FILES + 1):
            content.addfile(tarfile.TarInfo(f"f{i}"))
    return stream.getvalue()


def _twice(_: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as content:
        for name in ("config.json", "config.json"):
            content.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_truncated, "damaged archive"), (lambda _: b"<html>" * 200, "damaged archive"), (_many, "claims more than"),
        (_twice, "cannot write .*File exists"), (lambda _: b"\0" * 10240, "empty archive"),
    ],
)  # fmt: skip
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    archive = packed(tmp_path / "a.tar", folder_of(tmp_path / "model", FILES))
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(SpecError, match=message):
        unpack_folder(archive, tmp_path / "copy")
    assert {p.name for p in tmp_path.iterdir()} == {"a.tar", "model"}
