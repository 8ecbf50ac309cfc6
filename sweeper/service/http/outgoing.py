"""Outgoing: the unsent rest of a large answer waits in a file instead of memory."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeper.service.http.peers import CONNECTION

PIECE = 1 << 16
"""Bytes of one piece; about two pieces of an answer stay in memory while its reader is slow."""
FILES = 1 << 28
"""Bytes of all files, a quarter of it per client; beyond that, the oldest answers are cut off."""
_log = logging.getLogger("sweeper.service")


class Paced:
    """ASGI middleware that sends large bodies in pieces, as fast as the client reads them.

    Args:
        app: The app.
        folder: Folder of the unnamed files.
        most: Maximum number of bytes in all files.
    """

    def __init__(self, app: ASGIApp, folder: Path, most: int = FILES) -> None:
        self.app, self._files = app, _Files(folder, most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and pace its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send, self._files)
        try:
            await self.app(scope, receive, answer.send)
            await answer.finish()
        finally:
            answer.close()


class _Answer:
    """Sends one answer; `finish` sends what the client does not read at once."""

    def __init__(self, scope: Scope, send: Send, files: _Files) -> None:
        self.connection: Any = scope.get(CONNECTION)
        self.client: str = (scope.get("client") or ("",))[0]
        self._send, self._files = send, files
        self.rest: IO[bytes] | None = None

    async def send(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if message["type"] != "http.response.body" or len(body) <= PIECE:
            await self._send(message)
            return
        last, sent, view = not message.get("more_body", False), 0, memoryview(body)
        # only the last part is stored: earlier ones slow their producer down to the reader's speed
        while sent < len(body) and not (last and self._slow):
            end = sent + PIECE
            await self._send(_part(bytes(view[sent:end]), last and end >= len(body)))
            await asyncio.sleep(0)  # lets the connection write
            sent = end
        if sent < len(body):
            self.rest = self._files.take(self, view[sent:])

    @property
    def _slow(self) -> bool:
        return self.connection is not None and self.connection.slow

    async def finish(self) -> None:
        """Send the stored rest."""
        piece = self.rest.read(PIECE) if self.rest is not None else b""
        while self.rest is not None and piece:
            following = self.rest.read(PIECE)
            await self._send(_part(piece, not following))
            piece = following

    def close(self) -> None:
        """Drop the stored rest."""
        self._files.drop(self)


class _Files:
    """Files of waiting answers; a client with too many bytes loses its oldest answers."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._of: dict[str, dict[_Answer, tuple[int, ExitStack]]] = {}

    def take(self, answer: _Answer, rest: memoryview) -> IO[bytes]:
        """Return a file with the rest of an answer; older answers are cut off to make room."""
        mine = self._of.setdefault(answer.client, {})
        while mine and _size(mine) + len(rest) > self.most // 4:
            self._cut(next(iter(mine)))
        while (largest := max(self._of.values(), key=_size, default={})) and self._total + len(rest) > self.most:
            self._cut(next(iter(largest)))
        opened = ExitStack()
        try:
            file = opened.enter_context(TemporaryFile(dir=self.folder))  # noqa: SIM115  (until `drop`)
            file.write(rest)
            file.seek(0)
        except OSError as error:
            opened.close()
            _log.warning("cannot write the rest of an answer to a file, keeping it in memory: %s", error)
            file = opened.enter_context(io.BytesIO(rest))
        self._of.setdefault(answer.client, {})[answer] = (len(rest), opened)
        return file

    def drop(self, answer: _Answer) -> None:
        """Close the file of an answer."""
        mine = self._of.get(answer.client, {})
        if answer in mine:
            mine.pop(answer)[1].close()
        if not mine:
            self._of.pop(answer.client, None)

    @property
    def _total(self) -> int:
        return sum(map(_size, self._of.values()))

    def _cut(self, answer: _Answer) -> None:
        self.drop(answer)
        answer.rest = None
        answer.connection.cut("cut off: unread answers take too much space")


def _size(mine: Mapping[_Answer, tuple[int, ExitStack]]) -> int:
    return sum(size for size, _ in mine.values())


def _part(body: bytes, last: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}
