"""The run folder of a sweep: made, recognised, locked."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from trainables.trial import IMPORTED

from .places import Place, is_uri, place_of
from .spec import SpecError, SweepSpec, read_yaml

SPEC_FILE, LOCK_FILE = "sweep.yaml", ".lock"


def default_out(spec: SweepSpec) -> Path:
    """Return a new folder's name under `runs/`."""
    return Path("runs") / f"{Path(spec.space).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def stored_spec(run: str | Path) -> SweepSpec:
    """Return the spec that a run folder (a path or a URI) holds, with `out` set to the folder.

    Raises:
        SpecError: The folder is not there or cannot be reached, holds no sweep, or its spec is broken.
    """
    place = place_of(run)
    if place.store is not None:
        return _remote_spec(str(run), place)
    run = Path(place.path)
    if not run.is_dir():
        raise SpecError(f"{run} is a file, not a run folder" if run.exists() else f"there is no folder {run}")
    if not (run / SPEC_FILE).is_file():
        raise SpecError(f"{run} holds no sweep: {SPEC_FILE} is missing")
    values, lines = read_yaml(run / SPEC_FILE)
    return SweepSpec.checked({**values, "out": str(run)}, lines, str(run / SPEC_FILE))


def _remote_spec(uri: str, place: Place) -> SweepSpec:
    text = place.read_text(SPEC_FILE)
    if text is None:
        why = f"{uri} holds no sweep: {SPEC_FILE} is missing" if place.exists() else f"there is no folder {uri}"
        raise SpecError(why)
    values, lines = read_yaml(Path(place.path) / SPEC_FILE, text)
    return SweepSpec.checked({**values, "out": uri}, lines, f"{place.text}/{SPEC_FILE}")


def runnable_spec(run: str | Path) -> SweepSpec:
    """Return the spec that a run folder holds, of a sweep whose trials can be run here; see `stored_spec`.

    Raises:
        SpecError: There is none, or its trials were imported from a table.
    """
    spec = stored_spec(run)
    if spec.fixed.get("trainable") == IMPORTED:
        raise SpecError(
            f"the trials in {run} were imported from a table, so none can be run there; `sweeper run {spec.space}` "
            "starts a sweep of its space"
        )
    return spec


def claim(spec: SweepSpec) -> tuple[Path, bool]:
    """Make the run folder, or recognise one that holds this sweep; nothing in it is changed.

    Returns:
        The folder, absolute, and whether it held this sweep before.

    Raises:
        SpecError: It holds something else, or cannot be written to.
    """
    if spec.out and is_uri(spec.out):
        raise SpecError(f"a sweep writes to a folder of this machine or one that is mounted, got {spec.out}")
    run = Path(spec.out) if spec.out else default_out(spec)
    run = run.expanduser().absolute()
    try:
        # hidden files are ours, of a driver that was killed at once
        held = run.is_dir() and any(not p.name.startswith(".") for p in run.iterdir())
        if held and not (run / SPEC_FILE).is_file():
            raise SpecError(f"{run} is not empty and holds no sweep; choose another --out")
        if held:
            _same(stored_spec(run), spec, run)
        run.mkdir(parents=True, exist_ok=True)
        (run / LOCK_FILE).touch()
    except OSError as error:
        raise SpecError(f"cannot write to {run}: {error.strerror or error}") from None
    return run, held


def _same(old: SweepSpec, new: SweepSpec, run: Path) -> None:
    mine, theirs = _comparable(new), _comparable(old)
    for key, value in theirs.items():
        if mine[key] != value:
            raise SpecError(
                f"{run} holds another sweep ({key} is {value!r} there and {mine[key]!r} here); choose another --out"
            )


def _comparable(spec: SweepSpec) -> dict[str, Any]:
    identity = spec.identity()
    if spec.space.endswith(".py"):
        identity["space"] = Path(spec.space).name, Path(spec.space).read_text()
    return identity


def write_spec(run: Path, spec: SweepSpec) -> None:
    """Store the spec in the folder; a user's space file is copied beside it, so that the folder stands alone."""
    stored = spec
    if spec.space.endswith(".py"):
        source, target = Path(spec.space), run / Path(spec.space).name
        if source.resolve() != target.resolve():
            temporary = run / f".{target.name}.tmp"
            shutil.copyfile(source, temporary)
            temporary.replace(target)
        stored = spec.model_copy(update={"space": target.name})
    text = stored.to_yaml()
    path = run / SPEC_FILE
    if not path.exists() or yaml.safe_load(path.read_text()) != yaml.safe_load(text):
        temporary = run / f".{SPEC_FILE}.tmp"
        temporary.write_text(text)
        temporary.replace(path)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the folder for one driver; the kernel frees the lock when the process dies.

    Raises:
        SpecError: Another process runs a sweep there.
    """
    with (run / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SpecError(f"another process is running the sweep in {run}; wait for it or stop it first") from None
        yield


def is_running(run: Path) -> bool:
    """Whether a process is running the sweep in this folder."""
    try:
        with (run / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
