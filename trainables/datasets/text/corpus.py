"""Corpora: documents of files and folders, plain or compressed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from trainables.datasets.dataset import DataError

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".raw")


def find_text(root: Path | None, path: str, key: str = "path") -> Path:
    """Return the file or folder that an option names.

    Args:
        root: Data root, where a relative path starts.
        path: The option's value.
        key: Name of the option, for messages.

    Raises:
        DataError: It does not exist, or it is relative without a data root.
    """
    where = Path(path).expanduser()
    if not where.is_absolute():
        if root is None:
            raise DataError(f"{key} {path!r} is relative to the data root, which is not set; pass --data ROOT")
        where = root / where
    if not where.exists():
        raise DataError(f"{where} does not exist; {key} must be absolute or under the data root")
    return where


def list_texts(path: Path) -> list[Path]:
    """Return the text files of a folder and its sub-folders in order of their names, or the file itself.

    Raises:
        DataError: A folder without text files, or a file of another kind.
    """
    if not path.is_dir():
        if not path.name.endswith(SUFFIXES):
            raise DataError(f"a text must be a {', '.join(SUFFIXES)} file or a folder of such files, got {path}")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
    if not found:
        raise DataError(f"{path} must hold {', '.join(SUFFIXES)} files, but it has none")
    return found


def read_documents(path: Path, field: str = "text", separator: bytes = b"") -> Iterator[bytes]:
    """Yield the documents of a file or folder as UTF-8 bytes: each .txt file, and each line of each .jsonl file.

    Args:
        path: File, or folder whose files follow each other in order of their names.
        field: Field of a .jsonl line that holds its text.
        separator: Text between the documents of a .txt file; empty takes the whole file as one document.

    Raises:
        DataError: A file cannot be read, or a line has no such field.
    """
    for file in list_texts(path):
        try:
            if file.name.endswith((".jsonl", ".jsonl.gz")):
                yield from _read_lines(file, field)
            else:
                content = _open(file)
                parts = content.split(separator) if separator else [content]
                yield from (part for part in parts if part.strip())
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} cannot be read: {error}") from None


def _open(file: Path) -> bytes:
    if file.suffix == ".gz":
        with gzip.open(file) as opened:
            return opened.read()
    return file.read_bytes()


def _read_lines(file: Path, field: str) -> Iterator[bytes]:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"{file}, line {number}, must be JSON, one record per line") from None
            text = cast(Mapping[str, Any], record).get(field) if isinstance(record, Mapping) else None
            if not isinstance(text, str):
                has = ", ".join(map(str, cast(Mapping[Any, Any], record))) if isinstance(record, Mapping) else "none"
                raise DataError(
                    f"{file}, line {number}, must have text in field {field!r}, it has the fields {has}; set field"
                )
            yield text.encode("utf-8", "replace")
