"""Outgoing: the rest of a large answer waits for its reader in a file, not in memory."""

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
"""Bytes that are sent at once; about twice as many of an answer lie in memory while its reader is slow."""
FILES = 1 << 28
"""Bytes of all these files, a quarter of them of one client; where it is more, older answers are cut off."""
_log = logging.getLogger("sweeper.service")


class Paced:
    """ASGI middleware that sends large bodies piece by piece, as fast as the reader takes them.

    Args:
        app: What answers requests.
        folder: Where the files are, without a name.
        most: Bytes of all files.
    """

    def __init__(self, app: ASGIApp, folder: Path, most: int = FILES) -> None:
        self.app, self._files = app, _Files(folder, most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
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
    """Sends one answer; what its reader does not take at once is left for `finish`."""

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
        # a part that others follow is waited for: who makes them is not faster than the reader
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
        """Send what is left."""
        piece = self.rest.read(PIECE) if self.rest is not None else b""
        while self.rest is not None and piece:
            following = self.rest.read(PIECE)
            await self._send(_part(piece, not following))
            piece = following

    def close(self) -> None:
        """Drop what is left."""
        self._files.drop(self)


class _Files:
    """What answers wait in; a client that leaves too much loses its oldest ones."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._of: dict[str, dict[_Answer, tuple[int, ExitStack]]] = {}

    def take(self, answer: _Answer, rest: memoryview) -> IO[bytes]:
        """Return a file with the rest of an answer, after making room for it."""
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
            _log.warning("an answer waits for its reader in memory: %s", error)
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
        answer.connection.cut("cut off: answers that their readers leave take too much room")


def _size(mine: Mapping[_Answer, tuple[int, ExitStack]]) -> int:
    return sum(size for size, _ in mine.values())


def _part(body: bytes, last: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}
