"""A PostgreSQL server of this machine's package, on a free port, for as long as tests need it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg


def binaries() -> Path | None:
    """Return the folder of the newest server that is installed; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


class Postgres:
    """A server that runs; `database` makes one more of its databases."""

    def __init__(self, port: int, data: Path) -> None:
        self.port, self.data = port, data

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"host=127.0.0.1 port={self.port} user=tester dbname=postgres", autocommit=True) as found:
            found.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql://tester@127.0.0.1:{self.port}/{name}"

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Stop all of its processes for the block: connections stay open, and nobody answers."""
        head = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        head.suspend()  # first, so that it starts no more
        family = head.children(recursive=True)
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in (*family, head):
                with suppress(psutil.NoSuchProcess):
                    process.resume()


@contextmanager
def running(bin_folder: Path) -> Iterator[Postgres]:
    """Run a server for the block; it refuses to be root's, so it is user `postgres`'s there."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    prefix: list[str] = []
    if getpass.getuser() == "root":
        shutil.chown(folder, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *args: str) -> None:
        command = [*prefix, str(bin_folder / program), *args]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, "LC_ALL": "C.UTF-8"})
        assert done.returncode == 0, done.stdout + done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    call("initdb", "--auth=trust", "--username=tester", "--no-sync", "-D", data)
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=200"
    call("pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", options)
    try:
        yield Postgres(port, folder / "data")
    finally:
        call("pg_ctl", "stop", "-m", "immediate", "-D", data)
        shutil.rmtree(folder, ignore_errors=True)
