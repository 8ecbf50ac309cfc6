"""Where run folders lie: on this machine, or in an object store that pyarrow reads. Reading only.

A place is a path or a URI: `file:///runs/a`, `s3://bucket/runs/a`, `gs://bucket/runs/a`. What a store needs besides
its credentials stands in the URI's query as pyarrow has it, such as `?endpoint_override=HOST:PORT&scheme=http`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .specfile import SpecError

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in ns: a part whose stamp is the same has not changed."""

RETRY_SECONDS = 10
SCHEMES = ("file", "s3", "gs", "gcs")


def is_uri(place: str | Path) -> bool:
    """Whether a place is written as a URI."""
    return "://" in str(place)


@dataclass(frozen=True)
class Place:
    """One run folder.

    Attributes:
        text: As people write it.
        path: Path on this machine, or within the store.
        store: A `pyarrow.fs.FileSystem`; None for this machine, whose own calls are faster.
    """

    text: str
    path: str
    store: Any = None

    @property
    def name(self) -> str:
        """Last part of the path."""
        return (Path(self.path) if self.store else Path(self.path).absolute()).name or self.text

    def exists(self) -> bool:
        """Whether a folder is there.

        Raises:
            SpecError: The store cannot be reached.
        """
        if self.store is None:
            return Path(self.path).is_dir()
        return self._info(self.path).type.name == "Directory"

    def parts(self, table: str) -> dict[str, Stamp]:
        """Return the files of a table's folder that end in `.parquet`, by path in order, with their stamps.

        Raises:
            SpecError: The store cannot be reached.
        """
        folder = f"{self.path}/{table}"
        if self.store is None:
            return _local_parts(folder)
        from pyarrow.fs import FileSelector

        try:
            files = self.store.get_file_info(FileSelector(folder, allow_not_found=True))
        except OSError as error:
            raise self._unreachable(error) from None
        return {f.path: (f.size, f.mtime_ns or 0) for f in sorted(files, key=lambda f: f.path) if _is_part(f.path)}

    def read_text(self, name: str) -> str | None:
        """Return a file's text, None where there is no such file.

        Raises:
            SpecError: The store cannot be reached, or the file is no text.
        """
        path = f"{self.path}/{name}"
        try:
            if self.store is None:
                return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None
            if self._info(path).type.name != "File":
                return None
            with self.store.open_input_file(path) as file:
                return file.read().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"cannot read {self.text}/{name}: {_line(error)}") from None

    def _info(self, path: str) -> Any:
        try:
            return self.store.get_file_info(path)
        except OSError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> SpecError:
        return SpecError(f"cannot reach {self.text}: {_line(error)}")


def _is_part(path: str) -> bool:
    return path.endswith(".parquet") and not Path(path).name.startswith(".")


def _local_parts(folder: str) -> dict[str, Stamp]:
    try:
        with os.scandir(folder) as entries:
            found = {e.path: e.stat() for e in entries if _is_part(e.path)}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {path: (s.st_size, s.st_mtime_ns) for path, s in sorted(found.items())}


def _line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200]


def place_of(place: str | Path) -> Place:
    """Return where a path or URI leads; nothing is opened yet.

    Raises:
        SpecError: The URI is of no store that is known here, or cannot be understood.
    """
    return _remote(str(place)) if is_uri(place) else Place(str(place), str(place))


@lru_cache(maxsize=64)
def _remote(uri: str) -> Place:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Place(uri, unquote(parts.path))
    if parts.scheme not in SCHEMES:
        raise SpecError(f"cannot read {uri}: a place is a path or a URI of {', '.join(SCHEMES)}")
    asked = uri
    if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
        # by itself that client tries for a quarter of an hour
        asked += f"{'&' if parts.query else '?'}retry_limit_seconds={RETRY_SECONDS}"
    try:
        store, path = FileSystem.from_uri(asked)
    except (ArrowException, OSError, ValueError) as error:
        raise SpecError(f"cannot reach {uri}: {_line(error)}") from None
    return Place(parts._replace(query="").geturl(), path.rstrip("/"), store)
