"""Tokenizers: bytes, which need no files, or a local folder of Hugging Face's `tokenizers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from trainables.datasets.dataset import DataError
from trainables.datasets.text.corpus import find_text

BYTES = "bytes"
BYTE_VALUES = 256
BETWEEN = b"\n\n"
"""Separates documents where the tokenizer has no token for the end of a text."""
_AT_ONCE = 1024


class Tokenizer(Protocol):
    """Turns documents into tokens."""

    @property
    def name(self) -> str:
        """Its name in messages."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of tokens; tokens lie below it."""
        ...

    @property
    def key(self) -> str:
        """Text that changes with its content; empty if encoding is too fast to keep its result."""
        ...

    def encode(self, documents: Iterable[bytes]) -> tuple[np.ndarray, int]:
        """Return the tokens of all documents [m], with separators between them, and the bytes of the text."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """One token per byte."""

    name: str = BYTES
    vocabulary: int = BYTE_VALUES
    key: str = ""

    def encode(self, documents: Iterable[bytes]) -> tuple[np.ndarray, int]:
        """Return the bytes of all documents [m], with empty lines between them, and their number."""
        text = BETWEEN.join(documents)
        return np.frombuffer(text, dtype=np.uint8), len(text)


class FolderTokenizer:
    """A tokenizer of the file `tokenizer.json` in a folder, with the end token of `tokenizer_config.json`.

    Args:
        folder: Folder, as a fast tokenizer of transformers saves it.

    Raises:
        DataError: The folder has no tokenizer, it cannot be read, or the package `tokenizers` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokenizer.json" if folder.is_dir() else folder
        if not self.file.is_file():
            raise DataError(
                f"{folder} has no tokenizer.json; save one by `AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
            )
        try:
            from tokenizers import Tokenizer as Fast
        except ImportError:
            raise DataError("a tokenizer folder needs the package tokenizers: pip install 'sweeper[text]'") from None
        content = self.file.read_bytes()
        try:
            self._fast: Any = Fast.from_buffer(content)
        except Exception as error:  # the package raises plain exceptions
            raise DataError(f"{self.file} is no tokenizer: {str(error).partition(chr(10))[0]}") from None
        self.name = str(folder)
        self.key = hashlib.sha256(content).hexdigest()
        ids = self._fast.get_vocab(with_added_tokens=True).values()
        self.vocabulary = max(ids, default=-1) + 1
        self._end: int | None = self._find_end(self.file.parent / "tokenizer_config.json")

    def _find_end(self, config: Path) -> int | None:
        try:
            found = json.loads(config.read_bytes())["eos_token"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        name = cast(Any, found).get("content") if isinstance(found, dict) else found
        return self._fast.token_to_id(name) if isinstance(name, str) else None

    def encode(self, documents: Iterable[bytes]) -> tuple[np.ndarray, int]:
        """Return the tokens of all documents [m], each followed by the end token, and the bytes of the text.

        Raises:
            DataError: A document is not UTF-8.
        """
        parts: list[np.ndarray] = []
        size = 0
        batch: list[str] = []

        def flush() -> None:
            end = [] if self._end is None else [self._end]
            for encoded in self._fast.encode_batch(batch, add_special_tokens=False):
                parts.append(np.asarray([*encoded.ids, *end], dtype=np.int32))
            batch.clear()

        for document in documents:
            size += len(document)
            try:
                batch.append(document.decode())
            except UnicodeDecodeError as error:
                raise DataError(f"the text must be UTF-8 for a tokenizer of words, got {error}") from None
            if len(batch) == _AT_ONCE:
                flush()
        flush()
        return (np.concatenate(parts) if parts else np.empty(0, np.int32)), size


def open_tokenizer(root: Path | None, name: str) -> Tokenizer:
    """Return the tokenizer `bytes`, or that of a folder.

    Args:
        root: Data root, where a relative folder starts.
        name: `bytes`, or a folder with `tokenizer.json`.

    Raises:
        DataError: See `FolderTokenizer`.
    """
    if not name:
        raise DataError("tokenizer must be bytes or a folder with tokenizer.json, got nothing")
    return ByteTokenizer() if name == BYTES else FolderTokenizer(find_text(root, name, "tokenizer"))
