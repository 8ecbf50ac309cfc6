"""Messages for users of the service: names replace the server's folders, and commands name a sweep by its id."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.storage.location import is_uri
from sweeper.storage.schema import with_messages
from trainables.datasets.cache import cache_folder
from trainables.runtime import Runtime

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.service.config import Config
    from sweeper.service.db.sweeps import Entry

_ID = r"[A-Za-z0-9_-]+"


class Outward:
    """Removes the server's paths from messages, tables and specs.

    Args:
        root: Folder or URI of the sweeps, or None.
        folders: Other folder of the server -> name that replaces it.
        data: The data root.
    """

    def __init__(self, root: str | None = None, folders: Mapping[str, str] | None = None, data: str = "") -> None:
        self._data = data and str(Path(data).expanduser().absolute())
        self._roots = _spellings(root) if root else ()
        names = {text: name for folder, name in (folders or {}).items() for text in _spellings(folder)}
        names |= dict.fromkeys(_spellings(data), "DATA") if data else {}
        names |= dict.fromkeys(self._roots, "")
        self._names = {folder: name for folder, name in names.items() if len(folder) > 1}
        self._folder = re.compile(rf"(?<![\w.~-])(?:file://)?({_any(self._names)})(/+|(?![\w.-]))")
        roots = _any(self._roots)
        self._command = re.compile(rf"`(sweeper [a-z]+) '?(?:file://)?(?:{roots})/+({_ID})(?:\?[^`' ]*)?'?([^`]*)`")
        self._sweep = re.compile(rf"(?:file://)?(?:{roots})/+({_ID})/?(?:\?.*)?")

    @classmethod
    def of(cls, config: Config) -> Outward:
        """Return the instance for a service."""
        folders = {
            tempfile.gettempdir(): "TMP",
            str(Path.home()): "~",
            sys.prefix: "PYTHON",
            str(Path(__file__).parents[3]): "SWEEPER",
            str(cache_folder(Runtime())): "CACHE",
            str(config.folder): "STATE",
            **({str(config.spaces): "SPACES"} if config.spaces else {}),
        }
        return cls(config.root, folders, config.data or ("" if is_uri(config.root) else f"{config.root}/data"))

    def text(self, text: str) -> str:
        """Return a message without this server's folders, whose commands name the sweep by its id."""
        if "/" not in text:
            return text
        return self._folder.sub(self._name_folder, self._command.sub(r"`\1 \2\3 --server URL`", text))

    def _name_folder(self, match: re.Match[str]) -> str:
        name, slash = self._names[match[1]], match[2]
        return f"{name}/" if name and slash else name or ("" if slash else "ROOT")

    def table(self, trials: pa.Table) -> pa.Table:
        """Return trials with their messages passed through `text`."""
        return with_messages(trials, self.text)

    def spec(self, entry: Entry) -> dict[str, Any]:
        """Return a sweep's spec in a form that can be submitted again, without the server's additions."""
        spec = dict(entry.spec)
        if str(spec.get("space", "")).endswith(".py"):
            spec["space"] = Path(spec["space"]).stem
        if (data := spec.pop("data", None)) and data != self._data:
            path = Path(data)
            spec["data"] = str(path.relative_to(self._data)) if path.is_relative_to(self._data or "/") else data
        if isinstance(spec.get("prior"), list):
            spec["prior"] = [self._id_of(p) if isinstance(p, str) else p for p in spec["prior"]]
        return spec

    def _id_of(self, folder: str) -> str:
        match = self._sweep.fullmatch(folder)
        return match[1] if match else folder


def _spellings(folder: str) -> tuple[str, ...]:
    """Return the texts by which messages may name a folder."""
    if is_uri(folder):
        return (folder.partition("?")[0].rstrip("/"),)
    path = Path(folder).expanduser()
    return tuple(dict.fromkeys((str(path.absolute()), str(path.resolve()))))


def _any(texts: Mapping[str, str] | tuple[str, ...]) -> str:
    # longest first, since one folder may lie in another
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)"
