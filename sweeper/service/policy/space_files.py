"""The admin's space files as data: a separate process executes each file once; the server never does.

That process is `python -m sweeper.service.policy.space_files FILE TARGET`. Its result is stored by the file's content,
so pages and lists read data, even after a restart.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import search_spaces
from search_spaces import Space
from search_spaces._plain import from_json, to_json
from search_spaces._space import SpaceError
from trainables import __version__
from trainables.io.atomic import write_atomic

SECONDS = 120.0
"""Longest time that a file may take to execute."""
LOOK_SECONDS = 30.0
"""Interval at which the folder is searched for new files."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_log = logging.getLogger("sweeper.service")


class SpaceFiles:
    """The spaces of a folder of Python files; thread-safe.

    Args:
        folder: The folder; None allows no files.
        store: Folder for the results; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None = None, store: Path | None = None) -> None:
        self.folder, self.store = folder, store
        self._results: dict[str, Space | str] = {}  # key -> the space, or why the file defines none
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="space files", daemon=True)

    def file(self, name: str) -> Path | None:
        """Return the file of a space, or None."""
        file = self.folder / f"{name}.py" if self.folder is not None and NAME.fullmatch(name) else None
        return file.absolute() if file is not None and file.is_file() else None

    def files(self) -> list[Path]:
        """Return all files, by name."""
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(f.absolute() for f in self.folder.glob("*.py") if NAME.fullmatch(f.stem))

    def find(self, space: str) -> Space:
        """Return a space by its name or by the path of its file; a process executes a file with new content.

        Raises:
            UnknownName: The space does not exist.
            SpaceError: The file defines no space.
        """
        if not space.endswith(".py"):
            return search_spaces.load(space)
        path = Path(space)
        text, key = _read(path)
        with self._lock:  # two requests execute a file once
            result = self._recall(key)
            if result is None:
                result = self._results[key] = self._execute(path, text, key)
        if isinstance(result, str):
            raise SpaceError(result)
        return result

    def known(self) -> list[Space]:
        """Return the spaces of the files that were executed before, without executing any."""
        spaces: list[Space] = []
        for file in self.files():
            try:
                space = self._recall(_read(file)[1])
            except SpaceError:
                continue  # unreadable
            spaces += [space] if isinstance(space, Space) else []
        return spaces

    def start(self) -> None:
        """Start to search for new files, so lists name them before a sweep uses one."""
        if self.folder is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop the search, and kill the process that executes a file."""
        self._ended.set()
        if process := self._process:
            process.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            for file in self.files():
                try:
                    self.find(str(file))
                except SpaceError:
                    continue  # a request for the space gets the error
                except Exception:  # the next search may succeed
                    _log.exception("space file %s", file)
            self._ended.wait(LOOK_SECONDS)

    def _recall(self, key: str) -> Space | str | None:
        if key not in self._results and self.store is not None and (file := self.store / f"{key}.json").is_file():
            try:
                self._results[key] = from_json(file.read_text())
            except (OSError, SpaceError):
                return None
        return self._results.get(key)

    def _execute(self, path: Path, text: str, key: str) -> Space | str:
        with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
            target = Path(folder) / "space.json"
            command = [sys.executable, "-m", "sweeper.service.policy.space_files", str(path), str(target)]
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
            try:
                self._process.wait(SECONDS)
                result = json.loads(target.read_text())
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                return f"{path} takes more than {SECONDS:g} s to execute"
            except (OSError, ValueError):
                if self._ended.is_set():
                    raise SpaceError(f"{path} was not executed: the server is stopping") from None
                return f"{path}: the process died before it defined a space"
        if "error" in result:
            return result["error"]
        if _read(path)[0] != text:
            raise SpaceError(f"{path} changed while it was executed: try again")
        if self.store is not None:
            self.store.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self.store / f"{key}.json", json.dumps(result))
        return from_json(json.dumps(result))


def _read(path: Path) -> tuple[str, str]:
    """Return the text of a file, and the key of its result.

    Raises:
        SpaceError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read the space file {path}: {error}") from None
    return text, hashlib.sha256(json.dumps([__version__, path.stem, text]).encode()).hexdigest()[:32]


def main(file: str, target: str) -> int:
    """Execute a space file and write what it defines, or the error, as JSON."""
    try:
        result = to_json(search_spaces.load(file))
    except SpaceError as error:
        result = json.dumps({"error": str(error)})
    Path(target).write_text(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
