"""Private Ray: a local Ray that listens on loopback only and requires a token.

By default Ray listens on every interface and accepts every client, which may then run code as this account.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
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
"""Ray 2.60 replaces `--node-ip-address=127.0.0.1` by the address of an interface unless this is 0."""
_NEEDLESS = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray 2.60's `Node`, each of which starts a Python process that takes a second of a core."""
_REFUSED, _LET_IN = 10, 11
_PREFIX, _SOCKET = "sweeper-ray-", "/ray/session_2026-01-31_23-59-59_123456_4194304/sockets/plasma_store"
_OWNER = "owner.json"
_LONGEST = 107
"""Maximum length of the name of a Unix socket, in bytes."""
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
    """Make a folder for the files of a Ray, which only this account can enter.

    It is in the folder for temporary files, or in /tmp if the names of Ray's sockets would become too long. Folders of
    processes that were killed are removed.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(f"{parent}/{_PREFIX}12345678{_SOCKET}") > _LONGEST:
        parent = "/tmp"
    _remove_left_folders(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    (folder / _OWNER).write_text(json.dumps(_identify(psutil.Process())))
    return folder


def _identify(process: psutil.Process) -> dict[str, Any]:
    # ids of processes are reused, and differ between containers that share the folder
    namespace = Path("/proc/self/ns/pid")
    here = [socket.gethostname(), str(namespace.readlink()) if namespace.is_symlink() else ""]
    return {"pid": process.pid, "created": process.create_time(), "here": here}


def _remove_left_folders(parent: Path) -> None:
    """Remove the folders that processes of this account left, unless their Ray still runs."""
    left = [folder for folder in parent.glob(f"{_PREFIX}*") if _is_left(folder)]
    if not left:
        return
    commands = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    for folder in left:
        if not any(str(folder) in command for command in commands):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    try:
        owner = json.loads((folder / _OWNER).read_text())
        if folder.stat().st_uid != os.geteuid() or owner["here"] != _identify(psutil.Process())["here"]:
            return False
        return abs(psutil.Process(owner["pid"]).create_time() - owner["created"]) >= 1.0
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):  # another version made it
        return False


def write_token(file: Path) -> None:
    """Write a new token to a file that only this account can read."""
    file.unlink(missing_ok=True)
    file.touch(0o600, exist_ok=False)
    file.write_text(secrets.token_hex(32))


def users_token() -> Path:
    """Return the file of Ray's token of this account, after removing the read permission that Ray gives to others."""
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # the file is missing, or its file system has no permissions
        status = file.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o077:
            file.chmod(status.st_mode & 0o700)
    return file


def settings(token: Path) -> dict[str, str]:
    """Return the environment variables that start or join a private Ray.

    Args:
        token: File of its token.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {
        _ON_LOOPBACK: "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # the processes that train one child together also listen
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }


def environment(token: Path) -> dict[str, str]:
    """Return this process's environment with `settings`, for a process that starts or joins a private Ray."""
    # RAY_AUTH_TOKEN would override the file
    return {**{k: v for k, v in os.environ.items() if k != "RAY_AUTH_TOKEN"}, **settings(token)}


@contextmanager
def own_ray() -> Iterator[None]:
    """Make `ray.init(address="local")` start a private Ray inside the block, and remove its files afterwards.

    It has no process for a dashboard, an autoscaler or the logs of workers, which nothing here reads.
    """
    from ray._private import ray_constants
    from ray._private.node import Node

    folder = make_folder()
    changed: dict[str, str | None] = {
        **settings(folder / "token"), "RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN": None
    }  # fmt: skip
    before, clusters = {name: os.environ.get(name) for name in changed}, ray_constants.ENABLE_RAY_CLUSTER
    starts = {name: getattr(Node, name) for name in _NEEDLESS if hasattr(Node, name)}
    try:
        users_token()
        write_token(folder / "token")
        _change_environment(changed)
        ray_constants.ENABLE_RAY_CLUSTER = False  # Ray reads the variable only at import
        for name in starts:
            setattr(Node, name, _start_nothing)
        yield
    finally:
        for name, start in starts.items():
            setattr(Node, name, start)
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        _change_environment(before)
        shutil.rmtree(folder, ignore_errors=True)


def _start_nothing(node: Any, **_: Any) -> None:
    """Replace a method of Ray's `Node`."""


def _change_environment(wanted: Mapping[str, str | None]) -> None:
    from ray import _raylet

    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # Ray caches the first mode and token
    raylet: Any = _raylet
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def without_client_server(parameters: Any, head: bool) -> None:
    """Disable Ray's client server, which nothing here uses; `ray start` calls this function by RAY_START_HOOK."""
    parameters.ray_client_server_port = None


def check_closed(address: str, processes: Iterable[psutil.Process]) -> None:
    """Check that a Ray listens on loopback only and refuses a client without its token.

    Args:
        address: `HOST:PORT`.
        processes: The processes of the Ray; their children count, too.

    Raises:
        SpecError: Other accounts could use it, so nothing must run on it.
    """
    for host in _find_hosts(processes):
        if not is_loopback(host):
            raise SpecError(f"the Ray of this machine must listen on loopback only, got {host}: others could use it")
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


def _find_hosts(processes: Iterable[psutil.Process]) -> set[str]:
    hosts = set[str]()
    for process in processes:
        with suppress(psutil.Error):  # it has ended
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    sockets = one.net_connections("inet")
                    hosts |= {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}
    return hosts
