"""A Ray for its owner alone: its token, its environment, and what is refused; no Ray is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray._private import ray_constants
from ray._private.node import Node

from sweeper.errors import SpecError
from sweeper.runner.ray_tune import own_ray

Address = namedtuple("Address", ["ip", "port"])
Socket = namedtuple("Socket", ["laddr", "status"])


class Process:
    """A process with sockets, and one under it."""

    def __init__(self, *listening: str, children: tuple[Any, ...] = ()) -> None:
        self.sockets = [Socket(Address(ip, 1), psutil.CONN_LISTEN) for ip in listening]
        self.sockets.append(Socket(Address("192.0.2.7", 2), psutil.CONN_ESTABLISHED))
        self._children = children

    def children(self, recursive: bool) -> tuple[Any, ...]:
        assert recursive
        return self._children

    def net_connections(self, kind: str) -> list[Socket]:
        assert kind == "inet"
        return self.sockets


class Gone(Process):
    """A process that ended a moment ago."""

    def net_connections(self, kind: str) -> list[Socket]:
        raise psutil.NoSuchProcess(7)


def answer(monkeypatch: pytest.MonkeyPatch, code: int, said: str = "") -> list[dict[str, str]]:
    """Let the client without a token end so; returns the environments that it was given."""
    given: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> Any:
        given.append(env)
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(own_ray.subprocess, "run", run)
    return given


def test_one_on_loopback_that_refuses_a_client_without_its_token_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/a/token")
    given = answer(monkeypatch, own_ray._REFUSED)
    own_ray.check_closed("127.0.0.1:1", [Process("127.0.0.1", "::ffff:127.0.0.1", children=(Gone(), Process("::1")))])  # type: ignore[list-item]
    assert [{k: v for k, v in env.items() if k.startswith("RAY_AUTH")} for env in given] == [
        {"RAY_AUTH_MODE": "disabled"}
    ]


@pytest.mark.parametrize("where", ["0.0.0.0", "::", "192.0.2.7", "::ffff:192.0.2.7"])
def test_one_that_others_reach_is_refused(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    answer(monkeypatch, own_ray._REFUSED)
    process = Process("127.0.0.1", children=(Process(where),))
    with pytest.raises(SpecError, match=f"must listen on loopback only, got {where}:"):
        own_ray.check_closed("127.0.0.1:1", [process])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("code", "said", "why"),
    [
        (own_ray._LET_IN, "", "lets in a client without its token"),
        (1, "a warning\nImportError: no GcsClient\n", "cannot check the token .*: ImportError: no GcsClient"),
        (-9, "", "cannot check the token .*: exit code -9"),
    ],
)
def test_one_whose_token_does_not_work_is_refused(
    monkeypatch: pytest.MonkeyPatch, code: int, said: str, why: str
) -> None:
    answer(monkeypatch, code, said)
    with pytest.raises(SpecError, match=why):
        own_ray.check_closed("127.0.0.1:1", [])


def test_a_token_is_new_each_time_and_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("an old one that others could read")
    file.chmod(0o644)
    own_ray.write_token(file)
    first = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    file.unlink()
    file.symlink_to(elsewhere)
    own_ray.write_token(file)
    assert not file.is_symlink()
    assert file.read_text() != first
    assert len(file.read_text()) == len(first) == 64
    assert elsewhere.read_text() == "kept"


def test_the_environment_and_the_files_are_for_the_block_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-cluster's")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(own_ray, "make_folder", lambda: Path(tempfile.mkdtemp(dir=tmp_path)))
    before, clusters = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    folder = Path()

    def fail() -> None:
        raise KeyError("a sweep that fails")

    with suppress(KeyError), own_ray.own_ray():
        folder = Path(os.environ["RAY_TMPDIR"])
        assert folder.parent == tmp_path
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "RAY_AUTH_TOKEN" not in os.environ
        assert Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent == folder
        assert not ray_constants.ENABLE_RAY_CLUSTER
        fail()
    assert dict(os.environ) == before
    assert clusters == ray_constants.ENABLE_RAY_CLUSTER
    assert not folder.exists()


def test_its_files_lie_where_sockets_can_have_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="a", dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        found = own_ray.make_folder()
        assert found.parent == Path(short)
        assert found.stat().st_mode & 0o777 == 0o700
    long = tmp_path / ("scratch" * 8)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    found = own_ray.make_folder()
    shutil.rmtree(found)
    assert found.parent == Path("/tmp")


def test_folders_of_killed_processes_are_removed_unless_their_ray_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from sweeper.runner.ray_tune import own_ray; print(own_ray.make_folder())"
    with tempfile.TemporaryDirectory(prefix="a", dir="/tmp") as parent:
        monkeypatch.setenv("RAY_TMPDIR", parent)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        left = Path(done.stdout.strip())
        owner = json.loads((left / "owner.json").read_text())
        kept: list[Path] = []
        for other in (owner, {**owner, "here": ["another-machine", ""]}, None):
            kept.append(Path(tempfile.mkdtemp(prefix="sweeper-ray-", dir=parent)))
            if other is not None:
                (kept[-1] / "owner.json").write_text(json.dumps(other))
        raylet = [sys.executable, "-c", "import time; time.sleep(600)", f"--temp-dir={kept[0]}/ray"]
        with subprocess.Popen(raylet) as process:
            kept.append(own_ray.make_folder())
            kept.append(own_ray.make_folder())
            process.kill()
        assert set(Path(parent).iterdir()) == set(kept)


def test_the_token_of_the_account_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not own_ray.users_token().exists()
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("a token")
    file.chmod(0o644)
    assert own_ray.users_token() == file
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_starts_no_process_that_nothing_reads_and_gives_ray_back_as_it_was() -> None:
    names = ("start_api_server", "start_monitor", "start_log_monitor")
    before = [getattr(Node, name) for name in names]
    node = Node.__new__(Node)  # without its processes
    with own_ray.own_ray():
        node.start_api_server(include_dashboard=False, raise_on_failure=False)
        node.start_monitor()
        node.start_log_monitor()
        assert not vars(node)
    assert [getattr(Node, name) for name in names] == before


def test_a_worker_imports_neither_the_sampler_nor_the_analysis() -> None:
    code = (
        "import sys, sweeper.runner.ray_tune.trainable\n"
        "print({'sklearn', 'torch', 'sweeper.analysis', 'sweeper.search', 'sweeper.runner.session'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr
