"""Locations of run folders: on this machine, on mounted storage, or in an object store of pyarrow.

A place is a path or a URI: `file:///runs/a`, `s3://bucket/runs/a`, `gs://bucket/runs/a`. The query of a URI holds
options of pyarrow's file system, such as `?endpoint_override=HOST:PORT&scheme=http`, but no credentials. A reader
never sees half a file: local files are written under another name and renamed, files in a store are one upload.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from sweeper.errors import AwayError, SpecError, StorageError
from sweeper.storage.retry import READING, is_full, line, patience, retry
from trainables.io.atomic import write_atomic

T = TypeVar("T")
Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns; a part with the same stamp has not changed."""

SCHEMES = ("file", "s3", "gs", "gcs")
UNFINISHED = ".tmp"
"""Folder for unfinished files, so that readers of the other folders see whole files only."""
ABANDONED_SECONDS = 3600.0


def is_uri(place: object) -> bool:
    """Return whether a place is a URI."""
    return "://" in str(place)


@dataclass(frozen=True)
class Place:
    """One run folder.

    Attributes:
        text: Name in messages: without the query of a URI.
        path: Path on this machine, or within the store.
        store: A `pyarrow.fs.FileSystem`; None for this machine, whose own calls are faster.
        uri: URI with the query; a path on this machine.
        seconds: Seconds during which failed calls are repeated.
        driven: Whether a sweep runs there, so that failures are a `StorageError` and not a `SpecError`.
    """

    text: str
    path: str
    store: Any = None
    uri: str = ""
    seconds: float = READING
    driven: bool = False

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """Last part of the path."""
        return (Path(self.path) if self.store else Path(self.path).absolute()).name or self.text

    @property
    def local(self) -> Path | None:
        """The folder, if it is on this machine, else None."""
        return Path(self.path) if self.store is None else None

    def patient(self) -> Place:
        """Return the same place for a sweep, which waits longer for its storage; see `storage.retry.patience`."""
        return self if self.driven else replace(self, seconds=patience(), driven=True)

    # -- looking ----------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether the folder exists.

        Raises:
            AwayError: The store cannot be reached; a `StorageError` for a `patient` place.
        """
        if self.store is None:
            return Path(self.path).is_dir()
        return self._call(lambda: self.store.get_file_info(self.path)).type.name == "Directory"

    def has(self, name: str) -> bool:
        """Return whether a file exists.

        Raises:
            SpecError: The store cannot be reached, or the name leads out of the folder.
        """
        path = self._within(name)
        if self.store is None:
            return Path(path).is_file()
        return self._call(lambda: self.store.get_file_info(path)).type.name == "File"

    def files(self, folder: str = "") -> dict[str, Stamp]:
        """Return name -> stamp for the files of a folder of this place, sorted, without hidden ones.

        Raises:
            SpecError: The store cannot be reached, or the name leads out of the folder.
        """
        path = self._within(folder) if folder else self.path
        if self.store is None:
            return retry(lambda: _local_files(path), self.seconds, remote=False)
        from pyarrow.fs import FileSelector

        found = self._call(lambda: self.store.get_file_info(FileSelector(path, allow_not_found=True)))
        seen = {PurePosixPath(f.path).name: (f.size, f.mtime_ns or 0) for f in found if f.type.name == "File"}
        return {name: stamp for name, stamp in sorted(seen.items()) if name and not name.startswith(".")}

    def entries(self) -> list[str]:
        """Return the sorted names in the folder, without hidden ones; empty without a folder.

        Raises:
            SpecError: The store cannot be reached.
        """
        if self.store is None:
            folder = Path(self.path)
            return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        from pyarrow.fs import FileSelector

        found = self._call(lambda: self.store.get_file_info(FileSelector(self.path, allow_not_found=True)))
        return sorted(n for f in found if (n := PurePosixPath(f.path).name) and not n.startswith("."))

    def parts(self, table: str) -> dict[str, Stamp]:
        """Return path -> stamp for the Parquet files of a table, sorted; see `files`."""
        files = self.files(table)
        return {f"{self.path}/{table}/{n}": stamp for n, stamp in files.items() if n.endswith(".parquet")}

    # -- reading ----------------------------------------------------------------------------------------------------

    def read_bytes(self, name: str) -> bytes | None:
        """Return the content of a file; None without such a file.

        Raises:
            SpecError: The file cannot be read, or the name leads out of the folder.
        """
        return self.content(self._within(name))

    def content(self, path: str) -> bytes | None:
        """Return the content of one of `parts`; see `read_bytes`."""

        def get() -> bytes:
            if self.store is None:
                return Path(path).read_bytes()
            with self.store.open_input_file(path) as file:
                return file.read()

        try:
            return retry(get, self.seconds, self.store is not None)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error(f"cannot read {self._describe(path)}: {line(error)}") from None

    def read_text(self, name: str) -> str | None:
        """Return the text of a file; None without such a file; see `read_bytes`."""
        data = self.read_bytes(name)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise SpecError(f"cannot read {self.text}/{name}: {line(error)}") from None

    def fetch(self, name: str, target: Path) -> bool:
        """Copy a file atomically to this machine and return whether it exists.

        Raises:
            SpecError: The file cannot be read.
            OSError: The target cannot be written.
        """
        data = self.read_bytes(name)
        if data is not None:
            _write_local(target, data)
        return data is not None

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically.

        Raises:
            StorageError: The file cannot be written.
            SpecError: The name leads out of the folder.
        """
        path = self._within(name)
        if self.store is None:
            self._change("write", name, lambda: self._replace_local(path, data))
        else:
            self._change("write", name, lambda: self._upload(path, data))

    def write_file(self, name: str, make: Callable[[Path], Any]) -> None:
        """Write a file atomically, with content that `make` writes to a given path; see `write`."""
        path = self._within(name)
        if self.store is None:
            self._change("write", name, lambda: self._replace_local(path, make))
            return
        import pyarrow as pa

        with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
            made = Path(folder) / "file"
            self._change("write", name, lambda: make(made))
            with pa.memory_map(str(made)) as source:
                data = source.read_buffer()
                self._change("write", name, lambda: self._upload(path, data))

    def remove(self, name: str) -> None:
        """Remove a file; do nothing without such a file.

        Raises:
            StorageError: The file cannot be removed.
            SpecError: The name leads out of the folder.
        """
        path = self._within(name)

        def unlink() -> None:
            with suppress(FileNotFoundError):
                if self.store is None:
                    Path(path).unlink()
                else:
                    self.store.delete_file(path)

        self._change("remove", name, unlink)

    def clear(self) -> None:
        """Remove the folder and its content; do nothing without such a folder.

        Raises:
            StorageError: The folder cannot be removed.
        """
        if self.store is not None:
            if self.exists():
                self._call(lambda: self.store.delete_dir(self.path))
            return
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"cannot remove {self.text}: {line(error)}") from None

    def tidy(self) -> None:
        """Remove unfinished files of killed writers."""
        if self.store is not None:
            return  # an interrupted upload leaves no file
        for path in (Path(self.path) / UNFINISHED).glob("*"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
            except OSError:  # another process owns or removed it
                continue

    # -- within -----------------------------------------------------------------------------------------------------

    def _replace_local(self, path: str, content: bytes | Callable[[Path], Any]) -> None:
        target = Path(path)
        # a file outside the tables' folders, such as an export, is written beside its target
        top = target.parent == Path(self.path)
        _write_local(target, content, None if top else Path(self.path) / UNFINISHED / uuid.uuid4().hex)

    def _upload(self, path: str, data: Any) -> None:
        # one call, because a stream that closes after a partial write becomes a file
        with self.store.open_output_stream(path) as stream:
            stream.write(data)

    def _within(self, name: str) -> str:
        parts = name.split("/")
        if any(p in ("", ".", "..") for p in parts) or "\\" in name or "\0" in name:
            raise SpecError(f"a name must stay in the run folder, got {name!r}")
        return f"{self.path}/{name}"

    def _describe(self, path: str) -> str:
        return f"{self.text}{path[len(self.path) :]}"

    def _call(self, ask: Callable[[], Any]) -> Any:
        try:
            return retry(ask, self.seconds, remote=True)
        except OSError as error:
            raise self._error(f"cannot reach {self.text}: {line(error)}") from None

    def _error(self, text: str) -> Exception:
        return StorageError(text) if self.driven else AwayError(text)

    def _change(self, verb: str, name: str, do: Callable[[], Any]) -> None:
        try:
            retry(do, self.seconds, self.store is not None)
        except Exception as error:
            if isinstance(error, OSError) or is_full(error):
                raise StorageError(f"cannot {verb} {self.text}/{name}: {line(error)}") from None
            raise


def _write_local(target: Path, content: bytes | Callable[[Path], Any], temporary: Path | None = None) -> None:
    try:
        for path in (target, temporary or target):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content, temporary)
    except FileNotFoundError as error:
        # the folder vanished; callers treat FileNotFoundError as an answer
        raise OSError(error.errno, error.strerror) from None


def _local_files(folder: str) -> dict[str, Stamp]:
    try:
        with os.scandir(folder) as entries:
            found = {e.name: e.stat() for e in entries if not e.name.startswith(".") and e.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in sorted(found.items())}


def place_of(place: str | Path | Place) -> Place:
    """Return the place of a path or URI, without opening it.

    Raises:
        SpecError: The URI is invalid or names an unknown store.
    """
    if isinstance(place, Place):
        return place
    return _remote(str(place)) if is_uri(place) else Place(str(place), str(place), uri=str(place))


def file_of(file: str | Path) -> tuple[Place, str]:
    """Return the folder and the name of a file from its path or URI.

    Raises:
        SpecError: See `place_of`.
    """
    if not is_uri(file):
        return place_of(Path(file).parent), Path(file).name
    parts = urlsplit(str(file))
    folder, _, name = unquote(parts.path).rpartition("/")
    return place_of(parts._replace(path=folder).geturl()), name


def check_uri(uri: str) -> SplitResult:
    """Check the URI of a folder without contacting a store, and return its parts.

    Raises:
        SpecError: The URI names an unknown store, contains `..`, or holds credentials.
    """
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        raise SpecError(f"cannot use {uri}: a place is a path or a URI of {', '.join(SCHEMES)}")
    if ".." in unquote(parts.path).split("/"):
        raise SpecError(f"a URI must name its folder without .., got {parts._replace(query='').geturl()}")
    if parts.scheme != "file" and (parts.password or parts.username not in (None, "anonymous")):
        # credentials would appear in process lists, logs and the hint on how to resume
        raise SpecError(
            f"a place must not hold credentials, got {parts.scheme}://***@{parts.hostname}{parts.path}: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the variables of your store"
        )
    return parts


@lru_cache(maxsize=64)
def _remote(uri: str) -> Place:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    parts = check_uri(uri)
    if parts.scheme == "file":
        return Place(uri, unquote(parts.path), uri=uri)
    try:
        store, path = FileSystem.from_uri(uri + _more(parts.scheme, parts.query))
    except (ArrowException, OSError, ValueError) as error:
        raise SpecError(f"cannot reach {uri}: {line(error)}") from None
    if parts.scheme == "s3":
        store = _limit_retries(store)
    return Place(parts._replace(query="").geturl(), path.rstrip("/"), store, uri)


def _limit_retries(store: Any) -> Any:
    # by default pyarrow calls a silent server 30 times, which takes 100 s; `retry` repeats calls for a limited time
    from pyarrow.fs import AwsStandardS3RetryStrategy

    make, (options,) = store.__reduce__()
    return make({**options, "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=2)})


def _more(scheme: str, query: str) -> str:
    # s3: one PUT for small files; gs: by default the client retries for a quarter of an hour
    key, value = ("allow_delayed_open", "true") if scheme == "s3" else ("retry_limit_seconds", f"{READING:g}")
    return "" if key in query else f"{'&' if query else '?'}{key}={value}"
