"""Model folders on their way from a service: one archive of plain files, checked before anything is written.

An archive is a tar file with regular files alone, in the model folder or in its folder `base`. `unpack_folder` trusts
none of it: other names, links, devices and sizes that do not add up are refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sweeper.errors import SpecError
from trainables.io.atomic import replace_atomic

ARCHIVE = "application/x-tar"
MOST_FILES = 2000
"""Most files of an archive; a model of a trillion parameters has some hundred."""
BASE, ADAPTER_CONFIG = "base", "adapter_config.json"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Name of a file in an archive, and of the folder on its card."""
DISCARDED = "Sweeper-Discarded"
"""Header with the share of the merged update's squared norm that an adapter lacks."""
_COPY = 1 << 20


def pack_folder(folder: Path, stream: IO[bytes]) -> None:
    """Write the files of a model folder to a binary stream as an archive, without owners and times.

    An adapter whose base is a folder of this machine names it by the last part of its path.

    Raises:
        SpecError: The folder holds something that an archive does not take.
        OSError: A file cannot be read.
    """
    _shorten_base(folder)
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() and not path.is_symlink() and name == BASE:
                continue
            if path.is_symlink() or not path.is_file() or not _fits(name):
                raise SpecError(f"the model folder holds {name!r}, which is no file of a model")
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)


def _shorten_base(folder: Path) -> None:
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return
    config = json.loads(file.read_text())
    where = str(config.get("base_model_name_or_path") or "")
    if Path(where).is_absolute():
        file.write_text(json.dumps({**config, "base_model_name_or_path": Path(where).name}, indent=2) + "\n")


def unpack_folder(archive: Path, target: Path) -> None:
    """Make a model folder from an archive, whole or not at all.

    The adapter of a base that came along names it by its new path.

    Raises:
        SpecError: The target exists, the archive is damaged or holds more than plain files, or a file cannot be
            written.
    """
    check_new(target)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir()
        _check_end(archive)
        with tarfile.open(archive, "r:") as content:
            for entry in _check_entries(content, archive.stat().st_size):
                path = draft / entry.name
                path.parent.mkdir(exist_ok=True)
                source = content.extractfile(entry)
                assert source is not None  # a regular file
                with source, path.open("xb") as file:
                    shutil.copyfileobj(source, file, _COPY)
        _name_base(draft, target)
        replace_atomic(draft, target)
    except tarfile.TarError as error:
        raise SpecError(f"the service sent a damaged archive: {error}; try again") from None
    except OSError as error:
        raise SpecError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_new(target: Path) -> None:
    """Check that a folder can be made.

    Raises:
        SpecError: It exists, or its parent does not.
    """
    if target.exists() or target.is_symlink():
        raise SpecError(f"{target} exists; choose another folder")
    if not target.parent.is_dir():
        raise SpecError(f"there is no folder {target.parent}; create it, or choose another folder")


def _check_end(archive: Path) -> None:
    # tarfile takes an archive that breaks off between two files for a whole one
    with archive.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
        if size % tarfile.RECORDSIZE or any(file.read()):
            raise tarfile.ReadError("it breaks off")


def _check_entries(archive: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of an archive of `size` bytes, each after its checks."""
    seen: set[str] = set()
    total = 0
    for entry in archive:
        if not entry.isreg() or not _fits(entry.name):
            raise SpecError(f"the service sent an archive with {entry.name!r}, which is no plain file of a model")
        seen.add(entry.name)
        total += entry.size
        # sparse files could claim more than the archive holds
        if entry.issparse() or total > size or len(seen) > MOST_FILES:
            raise SpecError("the service sent an archive that claims more than it holds; nothing is written")
        yield entry
    if not seen:
        raise SpecError("the service sent an empty archive; try again")


def _fits(name: str) -> bool:
    return name != BASE and NAME.fullmatch(name.removeprefix(f"{BASE}/")) is not None


def _name_base(draft: Path, target: Path) -> None:
    file = draft / ADAPTER_CONFIG
    if not (file.is_file() and (draft / BASE).is_dir()):
        return
    try:
        config = json.loads(file.read_text())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise SpecError(f"the service sent an {ADAPTER_CONFIG} that is no mapping; try again")
    # peft looks a relative path up where it runs
    config["base_model_name_or_path"] = str(target.absolute() / BASE)
    file.write_text(json.dumps(config, indent=2) + "\n")
