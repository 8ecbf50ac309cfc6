"""Answers that wait for slow readers: pieces, files and their bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sweeper.service.http import outgoing
from sweeper.service.http.outgoing import PIECE, Paced
from sweeper.service.http.peers import CONNECTION


class Reader:
    """A connection whose client reads when it is told to."""

    def __init__(self) -> None:
        self.slow, self.reads = False, asyncio.Event()
        self.parts: list[bytes] = []
        self.ended: list[str] = []

    async def send(self, message: Any) -> None:
        if self.slow and not self.ended:
            await self.reads.wait()
        self.parts.append(message.get("body", b""))
        self.slow = len(self.parts) > 1 and not self.reads.is_set()

    def cut(self, reason: str) -> None:
        self.ended.append(reason)
        self.reads.set()


class Page:
    """Answers with a body, in one part or several."""

    def __init__(self, *parts: bytes) -> None:
        self.parts, self.done = parts, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for n, part in enumerate(self.parts, 1):
            await send({"type": "http.response.body", "body": part, "more_body": n < len(self.parts)})
        self.done += 1


async def asked(app: Paced, reader: Reader, client: str = "1.1.1.1") -> asyncio.Task[None]:
    """Ask for the page, and let the server come as far as it does without the reader."""
    scope = {"type": "http", "method": "GET", "client": (client, 1), CONNECTION: reader}
    task = asyncio.ensure_future(app(scope, None, reader.send))  # type: ignore[arg-type]
    for _ in range(50):
        await asyncio.sleep(0)
    return task


def waiting(app: Paced) -> list[int]:
    return [size for mine in app._files._of.values() for size, _ in mine.values()]


BODY = bytes(range(256)) * (5 * PIECE // 256) + b"end"


def test_the_app_is_done_and_the_rest_comes_from_a_file(tmp_path: Path) -> None:
    async def run() -> None:
        app, reader = Paced(page := Page(BODY), tmp_path), Reader()
        task = await asked(app, reader)
        assert (page.done, task.done(), waiting(app)) == (1, False, [len(BODY) - PIECE])
        reader.reads.set()
        await task
        assert b"".join(reader.parts) == BODY
        assert max(map(len, reader.parts)) <= PIECE
        assert waiting(app) == []

    asyncio.run(run())


def test_a_part_that_others_follow_waits_without_a_file(tmp_path: Path) -> None:
    async def run() -> None:
        app, reader = Paced(page := Page(BODY, b"more"), tmp_path), Reader()
        task = await asked(app, reader)
        assert (page.done, waiting(app)) == (0, [])
        reader.reads.set()
        await task
        assert b"".join(reader.parts) == BODY + b"more"

    asyncio.run(run())


def test_who_leaves_too_much_loses_the_oldest(tmp_path: Path) -> None:
    async def run() -> None:
        size = len(BODY) - PIECE
        app = Paced(Page(BODY), tmp_path, most=8 * size)
        mine = [Reader() for _ in range(3)]
        tasks = [await asked(app, reader) for reader in mine]
        assert [len(reader.ended) for reader in mine] == [1, 0, 0]
        assert len(waiting(app)) == 2
        others = [Reader() for _ in range(7)]
        tasks += [await asked(app, reader, f"1.1.2.{n}") for n, reader in enumerate(others)]
        assert [len(reader.ended) for reader in mine] == [1, 1, 0]  # the one with the most makes room
        assert len(waiting(app)) == 8
        assert not any(reader.ended for reader in others)
        for reader in mine + others:
            reader.reads.set()
        await asyncio.gather(*tasks)
        assert all(b"".join(reader.parts) == BODY for reader in mine[2:] + others)
        assert waiting(app) == []
        # one answer may be larger than all of that
        app = Paced(Page(BODY), tmp_path, most=size // 2)
        task = await asked(app, reader := Reader())
        reader.reads.set()
        await task
        assert (b"".join(reader.parts), reader.ended) == (BODY, [])

    asyncio.run(run())


def test_a_full_disk_does_not_end_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(dir: Path) -> Any:
        raise OSError(28, "No space left on device")

    async def run() -> None:
        app, reader = Paced(Page(BODY), tmp_path), Reader()
        task = await asked(app, reader)
        reader.reads.set()
        await task
        assert b"".join(reader.parts) == BODY

    monkeypatch.setattr(outgoing, "TemporaryFile", full)
    asyncio.run(run())
    assert "keeping it in memory" in caplog.text
