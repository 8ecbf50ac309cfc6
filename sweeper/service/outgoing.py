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

from .peers import FLOW

PIECE = 1 << 16
"""Bytes that are sent at once; about twice as many of an answer lie in memory while its reader is slow."""
_log = logging.getLogger("sweeper.service")


class Paced:
    """ASGI middleware that sends large bodies piece by piece, as fast as the reader takes them.

    Args:
        app: What answers requests.
        folder: Where the files are, without a name.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send, self.folder)
        try:
            await self.app(scope, receive, answer.send)
            await answer.finish()
        finally:
            answer.close()


class _Answer:
    """Sends one answer; what its reader does not take at once is left for `finish`."""

    def __init__(self, scope: Scope, send: Send, folder: Path) -> None:
        self._flow: Any = scope.get(FLOW)
        self._send, self._folder = send, folder
        self._rest: IO[bytes] | None = None
        self._opened = ExitStack()

    async def send(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if message["type"] != "http.response.body" or len(body) <= PIECE:
            await self._send(message)
            return
        last, sent, view = not message.get("more_body", False), 0, memoryview(body)
        # a part that others follow is waited for: who makes them is not faster than the reader
        while sent < len(body) and not (last and self._slow):
            end = sent + PIECE
            await self._send(_part(message, bytes(view[sent:end]), last and end >= len(body)))
            await asyncio.sleep(0)  # lets the connection write
            sent = end
        if sent < len(body):
            self._rest = self._kept(view[sent:])

    @property
    def _slow(self) -> bool:
        return self._flow is not None and self._flow.write_paused

    def _kept(self, rest: memoryview) -> IO[bytes]:
        try:
            file = self._opened.enter_context(TemporaryFile(dir=self._folder))  # noqa: SIM115  (until `close`)
            file.write(rest)
            file.seek(0)
        except OSError as error:
            _log.warning("an answer waits for its reader in memory: %s", error)
            return io.BytesIO(rest)
        return file

    async def finish(self) -> None:
        """Send what is left."""
        piece = self._rest.read(PIECE) if self._rest is not None else b""
        while self._rest is not None and piece:
            following = self._rest.read(PIECE)
            await self._send(_part({"type": "http.response.body"}, piece, not following))
            piece = following

    def close(self) -> None:
        """Drop what is left."""
        self._opened.close()


def _part(message: Mapping[str, Any], body: bytes, last: bool) -> Message:
    return {**message, "body": body, "more_body": not last}
