"""Servers of their own process, with tokens, that are stopped and killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sweeper.service.scheduler.process import Control
from tests.support.waiting import PATIENCE, until

ADDRESS = re.compile(r"https?://\S+?:\d+")


@dataclass
class Server:
    """`sweeper serve` over one root; it can be killed and started again."""

    root: Path
    options: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    database: tuple[str, ...] = ()
    url: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        log = self.root.parent / f"{self.root.name}.log"
        command = [sys.executable, "-m", "sweeper", "serve", "--root", str(self.root), "--port", "0", *self.options,
                   *self.database]  # fmt: skip
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**os.environ, **self.env}, start_new_session=True
            )
        until(lambda: self.process.poll() is not None or ADDRESS.search(log.read_text()), log.read_text)
        found = ADDRESS.search(log.read_text())
        assert found, log.read_text()
        self.url = found.group().rstrip("/")
        return self

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send the server, and nothing that it started, a signal; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def token(self, user: str, role: str = "submitter", *options: str) -> str:
        """Return a new token."""
        command = ["token", "create", user, "--role", role, "--root", str(self.root), *self.database, *options]
        done = subprocess.run([sys.executable, "-m", "sweeper", *command], capture_output=True, text=True, check=True)
        found = re.search(r"swp_\S+", done.stdout)
        assert found, done.stdout
        return found.group()

    def control(self, sweep: str) -> Control:
        return Control(self.root / ".service" / "sweeps" / sweep)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server over a new root; what is left of it and of its sweeps is killed at the end."""
    servers: list[Server] = []

    def one(*options: str, database: str = "", **env: str) -> Server:
        servers.append(Server(tmp_path / "root", options, env, ("--database", database) if database else ()))
        return servers[-1].start()

    yield one
    for server in servers:
        if server.process and server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
        for folder in (server.root / ".service" / "sweeps").glob("*"):
            Control(folder).signal(signal.SIGKILL, group=True)
