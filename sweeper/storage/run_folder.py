"""Run folder of a sweep: creation, recognition, lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from search_spaces import Space
from search_spaces._plain import to_json
from search_spaces._space import SpaceError
from sweeper.config.plain_text import check_plain_values
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import read_yaml
from sweeper.config.yaml_text import with_numbers
from sweeper.errors import MissingFolderError, SpecError
from sweeper.formatting import pluralize
from sweeper.storage.lease import Hold, hold_lease, holder
from sweeper.storage.location import Place, place_of
from sweeper.storage.space_data import SPACE_FILE, known_space, write_space
from trainables.datasets.cache import NO_LOCKS, cache_folder
from trainables.runtime import Runtime
from trainables.trial import IMPORTED

SPEC_FILE, LOCK_FILE = "sweep.yaml", ".lock"
_SHORT = 120
"""Longest value that a message quotes whole, in characters."""


def default_out(spec: SweepSpec) -> Path:
    """Return the name of a new folder under `runs/`."""
    return Path("runs") / f"{Path(spec.space).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def stored_spec(run: str | Path | Place) -> SweepSpec:
    """Return the spec that a run folder (a path or a URI) holds, with `out` set to the folder.

    For readers; `sweeper.storage.space_data.known_space` returns its space. A file of a sweep in a
    store is not fetched; see `runnable_spec`.

    Raises:
        SpecError: The folder does not exist or cannot be reached, holds no sweep, or its spec is broken.
    """
    place = place_of(run)
    if place.local and place.local.exists() and not place.local.is_dir():
        raise SpecError(f"{place.text} is a file, not a run folder")
    text = place.read_text(SPEC_FILE)
    if text is None:
        if not place.exists():
            raise MissingFolderError(f"there is no folder {place.text}")
        raise SpecError(f"{place.text} holds no sweep: {SPEC_FILE} is missing")
    return spec_of(place, text)


def stored_values(place: Place, text: str) -> dict[str, Any]:
    """Return the keys of the spec whose file in a run folder holds `text`.

    Raises:
        SpecError: The text is not a mapping in YAML.
    """
    return deepcopy(_parse(place.path, text)[0])


def spec_of(place: Place, text: str) -> SweepSpec:
    """Return the spec whose file in a run folder holds `text`, with `out` set to the folder.

    Raises:
        SpecError: The text is not a spec.
    """
    return _check(place.path, place.uri, place.text, text)


# one command reads the same file several times: a driver before and under its lock, then the page and the summary
@lru_cache(maxsize=2)
def _parse(path: str, text: str) -> tuple[dict[str, Any], dict[str, int]]:
    return read_yaml(Path(path) / SPEC_FILE, text, stored=True)


@lru_cache(maxsize=2)
def _check(path: str, uri: str, name: str, text: str) -> SweepSpec:
    values, lines = _parse(path, text)
    return SweepSpec.checked({**values, "out": uri}, lines, f"{name}/{SPEC_FILE}")


def _with_space_file(place: Place, spec: SweepSpec) -> SweepSpec:
    """Return the spec of a folder with a space file that this machine can load."""
    if place.store is None or not spec.space.endswith(".py"):
        return spec
    return spec.model_copy(update={"space": str(_space_file(place, Path(spec.space).name))})


def _space_file(place: Place, name: str) -> Path:
    """Return the local copy of the space file of a sweep in a store; its folder depends on its content."""
    data = place.read_bytes(name)
    if data is None:
        raise SpecError(f"{place.text} holds no sweep: its space file {name} is missing")
    target = cache_folder(Runtime()) / "spaces" / hashlib.sha256(data).hexdigest()[:16] / name
    if not target.is_file():
        place.fetch(name, target)
    return target


def runnable_spec(run: str | Path | Place) -> SweepSpec:
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
    return _with_space_file(place_of(run), spec)


def stored_keys(spec: SweepSpec) -> dict[str, Any] | None:
    """Return the keys of the spec in a sweep's run folder; None if the folder holds none.

    Raises:
        SpecError: The file is not a mapping in YAML, or the folder cannot be reached.
    """
    if spec.out is None:
        return None
    place = place_of(spec.out)
    text = place.read_text(SPEC_FILE)
    return None if text is None else stored_values(place, text)


def claim(spec: SweepSpec, space: Space) -> tuple[Place, bool]:
    """Create the run folder, or recognise one with this sweep without changing it.

    Args:
        spec: The sweep.
        space: Its space.

    Returns:
        The absolute folder, and whether it held this sweep before.

    Raises:
        SpecError: The folder holds something else, or cannot be reached or written to.
    """
    place = place_of(spec.out or default_out(spec))
    if place.local:
        place = place_of(place.local.expanduser().absolute())
    try:
        # entries() ignores hidden files, which a killed driver may leave
        held = bool(place.entries())
        if held and not place.has(SPEC_FILE):
            raise SpecError(f"{place.text} is not empty and holds no sweep; choose another --out")
        if held:
            _same(_with_space_file(place, stored_spec(place)), spec, space, place)
        else:
            check_plain_values(spec.dump_explicit())
        if place.local:
            place.local.mkdir(parents=True, exist_ok=True)
            (place.local / LOCK_FILE).touch()
    except OSError as error:
        raise SpecError(f"cannot write to {place.text}: {error.strerror or error}") from None
    return place, held


def _same(old: SweepSpec, new: SweepSpec, space: Space, place: Place) -> None:
    mine, theirs = _comparable(new), _comparable(old)
    for key, value in theirs.items():
        if mine[key] != value:
            both_files = old.space.endswith(".py") and new.space.endswith(".py")
            change = _describe_file(old, new, space) if key == "space" and both_files else ""
            change = change or _describe_change(key, value, mine[key])
            raise SpecError(f"{place.text} holds another sweep ({change}); choose another --out")


def _describe_file(old: SweepSpec, new: SweepSpec, space: Space) -> str:
    """Return which knob or field of a space file changed; empty for files of different names."""
    name = Path(new.space).name
    if Path(old.space).name != name:
        return f"space is {Path(old.space).name!r} there and {name!r} here"
    try:
        before, after = (json.loads(text) for text in (to_json(known_space(old).space), to_json(space)))
    except (SpecError, SpaceError):  # an earlier version stored no space
        return f"the file {name} changed"
    for data in (before, after):
        data["fixed"].pop("source", None)  # the text of the file
    for part in ("knobs", "fixed", "conditions"):
        if before[part] != after[part]:
            return f"the file {name} changed: {_describe_change(part, before[part], after[part])}"
    return f"the file {name} changed, but not its knobs and fields"


def _describe_change(key: str, old: Any, new: Any) -> str:
    """Return the first difference of two values in a few words, such as `parameters.momentum is 0 there and 1 here`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in (*old, *(n for n in new if n not in old)):
            if name not in old or name not in new:
                return f"{key}.{name} is only {'there' if name in old else 'here'}"
            if old[name] != new[name]:
                return _describe_change(f"{key}.{name}", old[name], new[name])
    lists = isinstance(old, list | tuple) and isinstance(new, list | tuple)
    if lists and max(len(repr(old)), len(repr(new))) > _SHORT:
        for i, (one, other) in enumerate(zip(old, new, strict=False), start=1):
            if one != other:
                return _describe_change(f"entry {i} of {key}", one, other)
        return f"{key} has {pluralize(len(old), 'entry', 'entries')} there and {len(new)} here"
    return f"{key} is {_shorten(old)} there and {_shorten(new)} here"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


def _comparable(spec: SweepSpec) -> dict[str, Any]:
    identity = with_numbers(spec.identity())  # folders of earlier versions may hold 1e-3 as text
    if spec.space.endswith(".py"):
        identity["space"] = Path(spec.space).name, Path(spec.space).read_text()
    return identity


def write_start(run: str | Path | Place, spec: SweepSpec, space: Space) -> None:
    """Store the spec of a sweep and its space as data, with a copy of a user's space file.

    Raises:
        SpecError: The space holds values that are not JSON.
        StorageError: The folder cannot be written to.
    """
    place, stored = place_of(run), spec
    if spec.space.endswith(".py"):
        source = Path(spec.space)
        data = source.read_bytes()
        if place.read_bytes(source.name) != data:
            place.write(source.name, data)
        stored = spec.model_copy(update={"space": source.name})
    text = stored.to_yaml()
    there = place.read_text(SPEC_FILE)
    # an equal spec in another form stays as it is
    if there is None or (there != text and stored_values(place, there) != stored_values(place, text)):
        place.write(SPEC_FILE, text.encode())
    write_space(place, space)


def withdraw(place: Place, spec: SweepSpec) -> None:
    """Remove the files of `claim` and `write_start` for a sweep that is rejected before its first trial.

    A folder with a name from the user stays and is empty.

    Raises:
        StorageError: The folder cannot be written to.
    """
    for name in (SPEC_FILE, SPACE_FILE, *([Path(spec.space).name] if spec.space.endswith(".py") else [])):
        place.remove(name)
    if spec.out is None and place.local:
        place.remove(LOCK_FILE)
        with suppress(OSError):  # a probe may leave files
            place.local.rmdir()


@contextmanager
def locked(run: str | Path | Place) -> Iterator[Hold]:
    """Lock the folder for one driver; the lock ends with the process, and in a store with its lease.

    Raises:
        SpecError: Another process runs the sweep in the folder.
    """
    place = place_of(run)
    if place.local is None:
        with hold_lease(place) as hold:
            yield hold
        return
    with (place.local / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                with hold_lease(place) as hold:
                    yield hold
                return
            raise SpecError(
                f"another process is running the sweep in {place.text}; wait for it or stop it first"
            ) from None
        yield Hold()


def is_running(run: str | Path | Place) -> bool:
    """Return whether a process runs the sweep in this folder.

    Raises:
        SpecError: The store cannot be reached.
    """
    place = place_of(run)
    if place.local is None:
        return holder(place) is not None
    try:
        with (place.local / LOCK_FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        return False
    except OSError as error:
        return holder(place) is not None if error.errno in NO_LOCKS else error.errno == errno.EWOULDBLOCK
    return False


PAGE = "dashboard.html"
