"""The admin's space files as data: a process of its own executes each of them once, never the server.

`python -m sweeper.service.policy.space_files FILE TARGET` is that process. What it finds is kept by the file's
content, so pages and lists read data, also after a restart.
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
"""A file that takes longer to execute is refused."""
LOOK_SECONDS = 30.0
"""New files are looked for this often."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_log = logging.getLogger("sweeper.service")


class SpaceFiles:
    """The spaces of a folder of Python files; for several threads.

    Args:
        folder: The folder; None allows no files.
        kept: Folder for what the files say; None keeps it in memory alone.
    """

    def __init__(self, folder: Path | None = None, kept: Path | None = None) -> None:
        self.folder, self.kept = folder, kept
        self._known: dict[str, Space | str] = {}  # a text says why there is no space
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="space files", daemon=True)

    def file(self, name: str) -> Path | None:
        """Return the file of a space; None where there is none."""
        file = self.folder / f"{name}.py" if self.folder is not None and NAME.fullmatch(name) else None
        return file.absolute() if file is not None and file.is_file() else None

    def files(self) -> list[Path]:
        """Return all files, by name."""
        if self.folder is None or not self.folder.is_dir():
            return []
        return sorted(f.absolute() for f in self.folder.glob("*.py") if NAME.fullmatch(f.stem))

    def find(self, space: str) -> Space:
        """Return a space by its name or by the path of its file; a file of new content is executed elsewhere.

        Raises:
            UnknownName: There is no such space.
            SpaceError: The file holds none.
        """
        if not space.endswith(".py"):
            return search_spaces.load(space)
        path = Path(space)
        text, key = _content(path)
        with self._lock:  # two requests execute a file once
            found = self._recalled(key)
            if found is None:
                found = self._known[key] = self._executed(path, text, key)
        if isinstance(found, str):
            raise SpaceError(found)
        return found

    def known(self) -> list[Space]:
        """Return the spaces of the files that were executed before; nothing is executed."""
        found: list[Space] = []
        for file in self.files():
            try:
                space = self._recalled(_content(file)[1])
            except SpaceError:
                continue  # unreadable
            found += [space] if isinstance(space, Space) else []
        return found

    def start(self) -> None:
        """Begin to look for files, so that lists name them before anybody uses one."""
        if self.folder is not None:
            self._thread.start()

    def close(self) -> None:
        """End; a file that is being executed is left."""
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
                    continue  # whoever asks for it is told why
                except Exception:  # the next look may succeed
                    _log.exception("space file %s", file)
            self._ended.wait(LOOK_SECONDS)

    def _recalled(self, key: str) -> Space | str | None:
        if key not in self._known and self.kept is not None and (file := self.kept / f"{key}.json").is_file():
            try:
                self._known[key] = from_json(file.read_text())
            except (OSError, SpaceError):
                return None
        return self._known.get(key)

    def _executed(self, path: Path, text: str, key: str) -> Space | str:
        with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
            target = Path(folder) / "space.json"
            command = [sys.executable, "-m", "sweeper.service.policy.space_files", str(path), str(target)]
            none = subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=none, stdout=none, stderr=none)
            try:
                self._process.wait(SECONDS)
                said = json.loads(target.read_text())
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                return f"{path} takes more than {SECONDS:g} s to execute"
            except (OSError, ValueError):
                if self._ended.is_set():
                    raise SpaceError(f"{path} is not executed: the server ends") from None
                return f"{path}: its process died before it defined a space"
        if "error" in said:
            return said["error"]
        if _content(path)[0] != text:
            raise SpaceError(f"{path} is being written: try again")
        if self.kept is not None:
            self.kept.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomic(self.kept / f"{key}.json", json.dumps(said))
        return from_json(json.dumps(said))


def _content(path: Path) -> tuple[str, str]:
    """Return the text of a file, and what it is kept under.

    Raises:
        SpaceError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read the space file {path}: {error}") from None
    return text, hashlib.sha256(json.dumps([__version__, path.stem, text]).encode()).hexdigest()[:32]


def main(file: str, target: str) -> int:
    """Execute a space file and write what it defines, or the error, as JSON."""
    try:
        said = to_json(search_spaces.load(file))
    except SpaceError as error:
        said = json.dumps({"error": str(error)})
    Path(target).write_text(said)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
