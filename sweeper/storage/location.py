"""Where run folders lie: on this machine, on storage that is mounted, or in an object store that pyarrow speaks to.

A place is a path or a URI: `file:///runs/a`, `s3://bucket/runs/a`, `gs://bucket/runs/a`. What a store needs besides
its credentials stands in the URI's query as pyarrow has it, such as `?endpoint_override=HOST:PORT&scheme=http`.
A reader never sees half a file: here one is written under another name and renamed, in a store it is one upload.
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
"""Size in bytes and time of the last change in ns: a part whose stamp is the same has not changed."""

SCHEMES = ("file", "s3", "gs", "gcs")
UNFINISHED = ".tmp"
"""Folder of files that are being written: readers of the other folders see whole ones only."""
ABANDONED_SECONDS = 3600.0


def is_uri(place: object) -> bool:
    """Whether a place is written as a URI."""
    return "://" in str(place)


@dataclass(frozen=True)
class Place:
    """One run folder.

    Attributes:
        text: As messages name it: without a URI's query.
        path: Path on this machine, or within the store.
        store: A `pyarrow.fs.FileSystem`; None for this machine, whose own calls are faster.
        uri: What leads there from anywhere, with the query; a path where it lies on this machine.
        seconds: For how long what fails is tried again.
        driven: Whether a sweep is run there: that its storage fails is no mistake in what was asked for.
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
        """The folder where it is one of this machine's."""
        return Path(self.path) if self.store is None else None

    def patient(self) -> Place:
        """Return the same place for a sweep, which outlasts storage that is away; see `storage.retry.patience`."""
        return self if self.driven else replace(self, seconds=patience(), driven=True)

    # -- looking ----------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether a folder is there.

        Raises:
            AwayError: The store cannot be reached; a `StorageError` of a place that is `patient`.
        """
        if self.store is None:
            return Path(self.path).is_dir()
        return self._asked(lambda: self.store.get_file_info(self.path)).type.name == "Directory"

    def has(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            SpecError: The store cannot be reached, or the name leads out of the folder.
        """
        path = self._within(name)
        if self.store is None:
            return Path(path).is_file()
        return self._asked(lambda: self.store.get_file_info(path)).type.name == "File"

    def files(self, folder: str = "") -> dict[str, Stamp]:
        """Return the files right in a folder of this place, by name in order; hidden ones are left out.

        Raises:
            SpecError: The store cannot be reached, or the name leads out of the folder.
        """
        path = self._within(folder) if folder else self.path
        if self.store is None:
            return retry(lambda: _local_files(path), self.seconds, remote=False)
        from pyarrow.fs import FileSelector

        found = self._asked(lambda: self.store.get_file_info(FileSelector(path, allow_not_found=True)))
        seen = {PurePosixPath(f.path).name: (f.size, f.mtime_ns or 0) for f in found if f.type.name == "File"}
        return {name: stamp for name, stamp in sorted(seen.items()) if name and not name.startswith(".")}

    def entries(self) -> list[str]:
        """Return the names of what lies in the folder, but hidden ones; nothing where there is no folder.

        Raises:
            SpecError: The store cannot be reached.
        """
        if self.store is None:
            folder = Path(self.path)
            return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
        from pyarrow.fs import FileSelector

        found = self._asked(lambda: self.store.get_file_info(FileSelector(self.path, allow_not_found=True)))
        return sorted(n for f in found if (n := PurePosixPath(f.path).name) and not n.startswith("."))

    def parts(self, table: str) -> dict[str, Stamp]:
        """Return the Parquet files of a table's folder by path in order; see `files`."""
        found = self.files(table)
        return {f"{self.path}/{table}/{n}": stamp for n, stamp in found.items() if n.endswith(".parquet")}

    # -- reading ----------------------------------------------------------------------------------------------------

    def read_bytes(self, name: str) -> bytes | None:
        """Return a file's content, None where there is no such file.

        Raises:
            SpecError: It cannot be read, or the name leads out of the folder.
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
            raise self._error(f"cannot read {self._shown(path)}: {line(error)}") from None

    def read_text(self, name: str) -> str | None:
        """Return a file's text, None where there is no such file; see `read_bytes`."""
        data = self.read_bytes(name)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise SpecError(f"cannot read {self.text}/{name}: {line(error)}") from None

    def fetch(self, name: str, target: Path) -> bool:
        """Copy a file to one of this machine, whole or not at all; returns whether there is such a file.

        Raises:
            SpecError: It cannot be read.
            OSError: The target cannot be written.
        """
        data = self.read_bytes(name)
        if data is not None:
            _written(target, data)
        return data is not None

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StorageError: It cannot be written.
            SpecError: The name leads out of the folder.
        """
        path = self._within(name)
        if self.store is None:
            self._changed("write", name, lambda: self._renamed(path, data))
        else:
            self._changed("write", name, lambda: self._upload(path, data))

    def write_file(self, name: str, make: Callable[[Path], Any]) -> None:
        """Write a file that `make` writes to the path it is given, whole or not at all; see `write`."""
        path = self._within(name)
        if self.store is None:
            self._changed("write", name, lambda: self._renamed(path, make))
            return
        import pyarrow as pa

        with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
            made = Path(folder) / "file"
            self._changed("write", name, lambda: make(made))
            with pa.memory_map(str(made)) as source:
                data = source.read_buffer()
                self._changed("write", name, lambda: self._upload(path, data))

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is removed already.

        Raises:
            StorageError: It cannot be removed.
            SpecError: The name leads out of the folder.
        """
        path = self._within(name)

        def unlink() -> None:
            with suppress(FileNotFoundError):
                if self.store is None:
                    Path(path).unlink()
                else:
                    self.store.delete_file(path)

        self._changed("remove", name, unlink)

    def clear(self) -> None:
        """Remove the folder with all that is in it; one that is not there is removed already.

        Raises:
            StorageError: It cannot be removed.
        """
        if self.store is not None:
            if self.exists():
                self._asked(lambda: self.store.delete_dir(self.path))
            return
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageError(f"cannot remove {self.text}: {line(error)}") from None

    def tidy(self) -> None:
        """Remove what writers that were killed left unfinished."""
        if self.store is not None:
            return  # an upload that was cut off is no file
        for path in (Path(self.path) / UNFINISHED).glob("*"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
            except OSError:  # another one's, or gone
                continue

    # -- within -----------------------------------------------------------------------------------------------------

    def _renamed(self, path: str, content: bytes | Callable[[Path], Any]) -> None:
        target = Path(path)
        # what lies in no table's folder, such as a file that is exported, is written beside its own name
        top = target.parent == Path(self.path)
        _written(target, content, None if top else Path(self.path) / UNFINISHED / uuid.uuid4().hex)

    def _upload(self, path: str, data: Any) -> None:
        # in one call: a stream that is closed after a part of it was written becomes a file
        with self.store.open_output_stream(path) as stream:
            stream.write(data)

    def _within(self, name: str) -> str:
        parts = name.split("/")
        if any(p in ("", ".", "..") for p in parts) or "\\" in name or "\0" in name:
            raise SpecError(f"a name must stay in the run folder, got {name!r}")
        return f"{self.path}/{name}"

    def _shown(self, path: str) -> str:
        return f"{self.text}{path[len(self.path) :]}"

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return retry(ask, self.seconds, remote=True)
        except OSError as error:
            raise self._error(f"cannot reach {self.text}: {line(error)}") from None

    def _error(self, text: str) -> Exception:
        return StorageError(text) if self.driven else AwayError(text)

    def _changed(self, verb: str, name: str, do: Callable[[], Any]) -> None:
        try:
            retry(do, self.seconds, self.store is not None)
        except Exception as error:
            if isinstance(error, OSError) or is_full(error):
                raise StorageError(f"cannot {verb} {self.text}/{name}: {line(error)}") from None
            raise


def _written(target: Path, content: bytes | Callable[[Path], Any], temporary: Path | None = None) -> None:
    try:
        for path in (target, temporary or target):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content, temporary)
    except FileNotFoundError as error:
        raise OSError(error.errno, error.strerror) from None  # a folder went away: no answer to a question


def _local_files(folder: str) -> dict[str, Stamp]:
    try:
        with os.scandir(folder) as entries:
            found = {e.name: e.stat() for e in entries if not e.name.startswith(".") and e.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: (s.st_size, s.st_mtime_ns) for name, s in sorted(found.items())}


def place_of(place: str | Path | Place) -> Place:
    """Return where a path or URI leads; nothing is opened yet.

    Raises:
        SpecError: The URI is of no store that is known here, or cannot be understood.
    """
    if isinstance(place, Place):
        return place
    return _remote(str(place)) if is_uri(place) else Place(str(place), str(place), uri=str(place))


def file_of(file: str | Path) -> tuple[Place, str]:
    """Return the folder and the name of a file that is given by its path or URI.

    Raises:
        SpecError: As from `place_of`.
    """
    if not is_uri(file):
        return place_of(Path(file).parent), Path(file).name
    parts = urlsplit(str(file))
    folder, _, name = unquote(parts.path).rpartition("/")
    return place_of(parts._replace(path=folder).geturl()), name


def check_uri(uri: str) -> SplitResult:
    """Check the form of a URI of a folder, and return its parts; nothing is asked of any store.

    Raises:
        SpecError: It is of no store that is known here, leads out of itself, or holds credentials.
    """
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES:
        raise SpecError(f"cannot use {uri}: a place is a path or a URI of {', '.join(SCHEMES)}")
    if ".." in unquote(parts.path).split("/"):
        raise SpecError(f"a URI must name its folder without .., got {parts._replace(query='').geturl()}")
    if parts.scheme != "file" and (parts.password or parts.username not in (None, "anonymous")):
        # it would show in process lists, logs and the line that tells how to resume
        raise SpecError(
            f"credentials do not belong into a place, got {parts.scheme}://***@{parts.hostname}{parts.path}: "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or what your store documents"
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
        store = _bounded(store)
    return Place(parts._replace(query="").geturl(), path.rstrip("/"), store, uri)


def _bounded(store: Any) -> Any:
    # a store of a URI asks a silent server 30 times, which takes 100 s; `retry` asks again for a bounded time
    from pyarrow.fs import AwsStandardS3RetryStrategy

    make, (options,) = store.__reduce__()
    return make({**options, "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=2)})


def _more(scheme: str, query: str) -> str:
    # s3: small files are one PUT; gs: by itself that client tries for a quarter of an hour
    key, value = ("allow_delayed_open", "true") if scheme == "s3" else ("retry_limit_seconds", f"{READING:g}")
    return "" if key in query else f"{'&' if query else '?'}{key}={value}"
