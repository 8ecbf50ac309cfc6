"""A Ray of this machine for its owner alone: it listens on loopback only and asks for a token of its own.

Ray listens on every interface otherwise, and lets in whoever connects: that is the right to run code as this account.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from sweeper.errors import SpecError
from sweeper.net import is_loopback

PROBE_SECONDS = 60.0
_ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""`--node-ip-address=127.0.0.1` alone does not suffice: Ray 2.60 replaces it by the address of an interface."""
_REFUSED, _LET_IN = 10, 11
_PREFIX, _SOCKET = "sweeper-ray-", "/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store"
_LONGEST = 107
"""Bytes that the name of a Unix socket may have."""
# Ray's own client, since gRPC's Python package is not always installed
_PROBE = f"""\
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1])
except AuthenticationError:
    sys.exit({_REFUSED})
sys.exit({_LET_IN})
"""


def make_folder() -> Path:
    """Make a folder for the files of a Ray that this account alone can enter.

    It lies where temporary files lie, or in /tmp where the names of Ray's sockets would become too long.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(f"{parent}/{_PREFIX}12345678{_SOCKET}") > _LONGEST:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def write_token(file: Path) -> None:
    """Write a new token to a file that this account alone can read."""
    file.unlink(missing_ok=True)
    file.touch(0o600, exist_ok=False)
    file.write_text(secrets.token_hex(32))


def users_token() -> Path:
    """Return the file where Ray keeps this account's token, and close it to others: Ray lets everybody read it."""
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # there is none, or it is on a file system without such rights
        found = file.stat()
        if found.st_uid == os.geteuid() and found.st_mode & 0o077:
            file.chmod(found.st_mode & 0o700)
    return file


def settings(token: Path) -> dict[str, str]:
    """Return the environment variables with which such a Ray is started and joined.

    Args:
        token: The file of its token.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        _ON_LOOPBACK: "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # the processes that train one child together listen, too
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


def environment(token: Path) -> dict[str, str]:
    """Return this process's environment with `settings`, for a process that starts or joins such a Ray."""
    # RAY_AUTH_TOKEN would win over the file
    return {**{k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"}, **settings(token)}


@contextmanager
def own_ray() -> Iterator[None]:
    """Make `ray.init(address="local")` start such a Ray, for the block; its files are removed afterwards."""
    from ray._private import ray_constants

    folder = make_folder()
    changed: dict[str, str | None] = {
        **settings(folder / "token"), "RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN": None
    }  # fmt: skip
    before, clusters = {name: os.environ.get(name) for name in changed}, ray_constants.ENABLE_RAY_CLUSTER
    try:
        users_token()
        write_token(folder / "token")
        _change_environment(changed)
        ray_constants.ENABLE_RAY_CLUSTER = False  # Ray reads the variable at import, which may be long ago
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        _change_environment(before)
        shutil.rmtree(folder, ignore_errors=True)


def _change_environment(wanted: Mapping[str, str | None]) -> None:
    from ray import _raylet

    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # Ray remembers the mode and the token that it saw first
    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def without_client_server(parameters: Any, head: bool) -> None:
    """Start no Ray client server: nothing here uses it. `ray start` calls this by RAY_START_HOOK."""
    parameters.ray_client_server_port = None


def check_closed(address: str, processes: Iterable[psutil.Process]) -> None:
    """Check that a Ray listens on loopback only, and refuses a client without its token.

    Args:
        address: `HOST:PORT`.
        processes: Those that were started for it; what they started is looked at, too.

    Raises:
        SpecError: Others could use it; nothing must run on it.
    """
    for where in _listening(processes):
        if not is_loopback(where):
            raise SpecError(f"the Ray of this machine must listen on loopback only, got {where}: others could use it")
    tokenless = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            env={**tokenless, "RAY_AUTH_MODE": "disabled"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SpecError(f"cannot check the token of the Ray at {address}: no answer in {PROBE_SECONDS:g} s") from None
    if done.returncode == _LET_IN:
        raise SpecError(f"the Ray at {address} lets in a client without its token: others could use it")
    if done.returncode != _REFUSED:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SpecError(f"cannot check the token of the Ray at {address}: {reason}")


def _listening(processes: Iterable[psutil.Process]) -> set[str]:
    found = set[str]()
    for process in processes:
        with suppress(psutil.Error):  # it has ended
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    sockets = one.net_connections("inet")
                    found |= {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}
    return found
