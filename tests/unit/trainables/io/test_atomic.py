"""Files appear whole, and their content is on the disk before their name is."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sweeper
from sweeper.service.db.ownership import read_identity
from sweeper.service.scheduler.process import Control
from sweeper.storage.location import place_of
from trainables.datasets.cache import make_once
from trainables.io.atomic import write_atomic
from trainables.training.checkpointing import Keeper

PACKAGES = ("trainables", "search_spaces", "sweeper", "dashboards")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is synced and renamed, in order."""
    seen: list[tuple[str, Path]] = []
    sync, replace = os.fsync, Path.replace

    def synced(opened: int) -> None:
        seen.append(("sync", Path(f"/proc/self/fd/{opened}").readlink()))
        sync(opened)

    def replaced(source: Path, target: Path) -> Path:
        seen.append(("rename", source))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return seen


def _control(folder: Path) -> None:
    Control(folder).begin()


def _checkpoint(folder: Path) -> None:
    Keeper(folder / "x.ckpt", {}, 1).write({})


def _saved(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(1))


WRITERS: dict[str, Callable[[Path], object]] = {
    "part": lambda folder: place_of(folder).write("trials/a.parquet", b"PAR1"),
    "spec": lambda folder: place_of(folder).write("sweep.yaml", b"space: synthetic"),
    "weights": lambda folder: place_of(folder).write_file("weights/a", lambda path: path.write_bytes(b"w")),
    "fetched": lambda folder: place_of(folder.parent).fetch("source", folder / "copy"),
    "control": _control,
    "identity": read_identity,
    "checkpoint": _checkpoint,
    "cache": lambda folder: make_once(folder / "pixels.npy", _saved),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_next_step(
    kind: str, steps: list[tuple[str, Path]], tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    WRITERS[kind](folder)
    assert [step for step, _ in steps] == ["sync", "rename", "sync"]
    assert steps[0][1] == steps[1][1]
    assert steps[2][1].is_dir()
    assert steps[2][1].is_relative_to(folder)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "halt"
    write_atomic(target, "old")

    def full(path: Path) -> None:
        path.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(target, full)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["halt"]


def test_a_file_system_that_syncs_no_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, answer = os.fsync, errno.EINVAL

    def refused(opened: int) -> None:
        if Path(f"/proc/self/fd/{opened}").readlink().is_dir():
            raise OSError(answer, os.strerror(answer))
        sync(opened)

    monkeypatch.setattr(os, "fsync", refused)
    write_atomic(tmp_path / "a", b"1")
    answer = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(tmp_path / "a", b"2")


def test_nobody_else_renames_files() -> None:
    tree = Path(sweeper.__file__).parents[1]
    renames = re.compile(r"os\.(replace|rename)\(|\.rename\(|(path|part|temporary|file|target)\.replace\(")
    found = [f for p in PACKAGES for f in (tree / p).rglob("*.py") if renames.search(f.read_text())]
    assert found == []
