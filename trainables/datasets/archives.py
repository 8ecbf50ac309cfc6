"""Archives of images: unpacked once into the cache, within bounds, as plain files."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from trainables.datasets.cache import fingerprint, make_once
from trainables.io.printable import is_plain

ENDINGS = (".tar.xz", ".tar.gz", ".tgz", ".tar", ".zip")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError)
_CHUNK, _HEADERS = 1 << 20, 1 << 20
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods whose decoder returns at most the requested number of bytes."""


@dataclass(frozen=True)
class Bounds:
    """Limits of an unpacked archive.

    Attributes:
        total: Bytes of all files.
        ratio: Bytes of all files as a multiple of the archive's size.
        small: Bytes up to which the ratio does not matter.
        file: Bytes of one file.
        entries: Number of files and folders.
        spare: Bytes that stay free on the disk.
    """

    total: int = 512 << 30
    ratio: int = 100
    small: int = 64 << 20
    file: int = 1 << 30
    entries: int = 5_000_000
    spare: int = 1 << 30


BOUNDS = Bounds()


class _RefusedError(ValueError):
    """An intact archive that exceeds the bounds or is unsafe."""


def is_archive(path: Path) -> bool:
    """Return whether `unpack` reads archives with this suffix."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, cache: Path, bounds: Bounds = BOUNDS) -> Path:
    """Return the folder with an archive's files; unpack it at most once, and write nothing outside this folder.

    Raises:
        ValueError: The archive is damaged, exceeds the bounds, or holds links or paths outside its folder.
    """

    def make(folder: Path) -> None:
        folder.mkdir()
        try:
            _unpack(archive, folder, bounds)
        except _RefusedError as error:
            reason = f"{error}; unpack it yourself and name its folder"
            raise ValueError(f"archive {archive} cannot be unpacked: {reason}") from None
        except (*_DAMAGED, OSError, ValueError, RuntimeError) as error:
            reason = f"{' '.join(str(error).split())}; if it is damaged, fetch it again"
            raise ValueError(f"archive {archive} cannot be unpacked: {reason}") from None

    return make_once(cache / "archives" / fingerprint([archive]), make)


def _unpack(archive: Path, folder: Path, bounds: Bounds) -> None:
    size = archive.stat().st_size
    most = min(bounds.total, max(bounds.small, bounds.ratio * size))
    room = shutil.disk_usage(folder).free - bounds.spare
    total = 0
    with closing(_zip(archive) if archive.name.lower().endswith(".zip") else _tar(archive)) as found:
        for number, entry in enumerate(found, 1):
            if number > bounds.entries:
                raise _RefusedError(f"it holds more than {bounds.entries} files and folders")
            target = _target(folder, entry.name)
            if entry.content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            if entry.size > bounds.file:
                raise _RefusedError(f"{entry.name!r} has {entry.size} bytes, more than {bounds.file} for one file")
            total += entry.size
            if total > most:
                limit = f"{bounds.ratio} times its size of {size}" if most < bounds.total else "the limit of an archive"
                raise _RefusedError(f"it unpacks to more than {most} bytes, {limit}")
            if total > room:
                raise _RefusedError(f"it unpacks to more than the {max(room, 0)} bytes free on the disk of {folder}")
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(entry, target)


@dataclass(frozen=True)
class _Entry:
    """An entry of an archive: a file, or a folder without content."""

    name: str
    size: int = 0
    content: IO[bytes] | None = None


def _target(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.partition("/")[0]:
        raise _RefusedError(f"{name!r} leads outside its folder")
    if not is_plain(name):
        raise _RefusedError(f"{name!r} holds control or format characters")
    return folder.joinpath(*path.parts)


def _copy(entry: _Entry, target: Path) -> None:
    assert entry.content is not None
    left = entry.size
    with target.open("wb") as file:
        while left and (part := entry.content.read(min(_CHUNK, left))):
            file.write(part)
            left -= len(part)
    if left:
        raise EOFError(f"{entry.name!r} ends {left} bytes early")


def _zip(archive: Path) -> Generator[_Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _RefusedError(f"{info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise _RefusedError(f"{info.filename!r} is encrypted")
            if info.is_dir():
                yield _Entry(info.filename)
                continue
            if info.compress_type not in _ZIP_METHODS:
                raise _RefusedError(f"{info.filename!r} is compressed by a method other than deflate")
            with file.open(info) as content:
                yield _Entry(info.filename, info.file_size, content)
                content.read(1)  # reading past the end checks the checksum


def _tar(archive: Path) -> Generator[_Entry]:
    with (
        archive.open("rb") as raw,
        _decode(raw, archive.name.lower()) as content,
        tarfile.open(fileobj=cast(Any, source := _Metered(content)), mode="r|") as file,
    ):
        known = cast(list[tarfile.TarInfo], vars(file)["members"])
        while True:
            source.left = _HEADERS
            info = file.next()
            if info is None:
                return
            known.clear()  # tarfile keeps every entry
            if info.isdir():
                yield _Entry(info.name)
                continue
            if not info.isreg():
                raise _RefusedError(f"{info.name!r} is a link or a device")
            if info.issparse():
                raise _RefusedError(f"{info.name!r} is a sparse file")
            source.left += info.size
            yield _Entry(info.name, info.size, file.extractfile(info))


def _decode(raw: IO[bytes], name: str) -> AbstractContextManager[IO[bytes]]:
    if name.endswith(".tar"):
        return nullcontext(raw)
    return cast(AbstractContextManager[IO[bytes]], (lzma if name.endswith(".xz") else gzip).open(raw))


class _Metered(io.RawIOBase):
    """A stream with a budget of bytes to read, because a header alone could fill the memory.

    Args:
        raw: The stream.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self.left = raw, _HEADERS

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes."""
        part = self._raw.read(size)
        self.left -= len(part)
        if self.left < 0:
            raise _RefusedError(f"a header in it has more than {_HEADERS} bytes")
        return part
