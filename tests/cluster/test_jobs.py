"""Sweeps as jobs of a real head with its dashboard on loopback, which asks for a token."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.storage.tables import read_trials
from tests.support.drivers import Driver, complete, wait_for_parts
from tests.support.waiting import PATIENCE, until
from trainables.runtime import package_version

pytestmark = pytest.mark.cluster

TOKEN = "a-token-of-this-test-that-nobody-may-see"
SPACE_FILE = """
import sweeper
from optuna.distributions import FloatDistribution
from search_spaces import load

print("the package lies in", sweeper.__file__)
SPACE = load("synthetic").override({"learning_rate": FloatDistribution(0.01, 1.0, log=True)}, {}, doc="mine")
"""
FAILS = {"space": "synthetic", "sampler": "random", "trials": 2,
         "parameters": {"learning_rate": {"min": 50, "max": 60}}}  # fmt: skip


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, Any]]:
    """A head that asks for a token, in a folder of its own; its PATH leads to this environment's Python."""
    ports = free_ports(7)
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
             "metrics-export-port", "runtime-env-agent-port", "ray-client-server-port")  # fmt: skip
    options = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**clean, "PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN,
                   "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="swh", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus=2",
                   "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray", "--object-store-memory=100000000",
                   "--node-ip-address=127.0.0.1", *options]  # fmt: skip
        log = Path(folder) / "head.log"
        with log.open("w") as file:
            started = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=file, stderr=file, start_new_session=True
            )
        try:
            address = f"http://127.0.0.1:{ports[1]}"
            until(lambda: started.poll() is not None or _answers(address), log.read_text)
            assert started.poll() is None, log.read_text()
            yield {"jobs": address, "ray": f"127.0.0.1:{ports[0]}"}
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(PATIENCE)
            finally:
                # what the head started carries its folder in its arguments
                _kill_leftovers(folder)


def _answers(address: str) -> bool:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.get(f"{address}/api/version", timeout=5, headers={"Authorization": f"Bearer {TOKEN}"})
        except requests.RequestException:
            return False
        return answer.ok


def _kill_leftovers(folder: str) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes()
                if f"{folder}/".encode() in arguments:
                    os.kill(int(entry.name), signal.SIGKILL)
            except OSError:
                continue


@pytest.fixture(autouse=True)
def _user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody elsewhere: an empty folder, a home without a token file, the token in the environment."""
    for name in [k for k in os.environ if k.startswith("RAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path / "empty")


def holds_token(folder: Path) -> bool:
    return any(TOKEN.encode() in p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_a_users_own_space_is_run_from_an_empty_folder(head: dict[str, Any], tmp_path: Path, driver: Driver) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(SPACE_FILE)
    sweep = tmp_path / "own" / "asked.yaml"
    sweep.write_text("space: mine.py\nsampler: random\ntrials: 6\n")
    run, at = tmp_path / "run", ("--address", head["jobs"])
    out, err = complete(driver("submit", str(sweep), *at, "--out", str(run), "--job-id", "mine-1", "--follow"))
    assert read_trials(run)["commit"].to_pylist() == [package_version()[1]] * 6
    assert f"page:    {run}/dashboard.html" in out
    assert "job mine-1 is submitted" in err
    assert "job mine-1 has ended: SUCCEEDED, exit code 0" in err
    # the package that ran is the one that was sent
    places = {line.split()[-1] for line in out.splitlines() if line.startswith("the package lies in")}
    assert any("runtime_resources/py_modules_files" in place for place in places)
    # the folder belongs to no cluster: it can be continued anywhere
    assert "address" not in yaml.safe_load((run / "sweep.yaml").read_text())
    shown, _ = complete(driver("status", "mine-1", *at, "--json"))
    assert json.loads(shown)["status"] == "SUCCEEDED"
    assert json.loads(shown)["out"] == str(run)
    _, twice = complete(driver("submit", str(sweep), *at, "--out", str(run), "--job-id", "mine-1"), 2)
    assert "this cluster already ran a job mine-1 (SUCCEEDED), and Ray uses each name once" in twice
    _, unknown = complete(driver("stop", "mine-2", *at), 2)
    assert "unknown job 'mine-2'; did you mean mine-1?" in unknown
    assert TOKEN not in out + err + shown + twice + unknown
    assert not holds_token(run)
    assert list(Path.cwd().iterdir()) == []


def test_ctrl_c_detaches_and_a_stopped_job_is_continued(head: dict[str, Any], tmp_path: Path, driver: Driver) -> None:
    run, at = tmp_path / "run", ("--address", head["jobs"])
    slow = ("--env", "SWEEPER_SYNTHETIC_SECONDS=0.5")
    asked = ("submit", "synthetic", "--sampler", "random", *at, "--out", str(run))
    follower = driver(*asked, *slow, "--trials", "400", "--follow")
    wait_for_parts(run, 3, follower)
    follower.send_signal(signal.SIGINT)
    _, err = complete(follower)
    name = next(line.split()[2].rstrip(",") for line in err.splitlines() if line.startswith("detached, job "))
    assert f"`sweeper stop {name} --address {head['jobs']}` stops it" in err
    shown, _ = complete(driver("status", name, *at, "--json"))
    assert json.loads(shown)["status"] == "RUNNING"
    _, twice = complete(driver(*asked, "--trials", "400"), 2)
    assert f"job {name} already runs (RUNNING)" in twice
    out, err = complete(driver("stop", name, *at))
    assert f"job {name} has ended: STOPPED; submit it again to continue in {run}" in out
    stopped = read_trials(run)["digest"].to_pylist()
    log = json.loads(complete(driver("status", name, *at, "--json"))[0])["log"]
    # the driver ended by itself, and said so
    assert any(line.startswith(f"interrupted: {len(stopped)} trials are in") for line in log)
    _, err = complete(driver(*asked, "--trials", str(len(stopped) + 2), "--follow"))
    assert f"job {name}-2 has ended: SUCCEEDED, exit code 0" in err
    again = read_trials(run)["digest"].to_pylist()
    assert len(again) == len(set(again)) == len(stopped) + 2
    assert set(stopped) < set(again)


def test_the_exit_code_is_the_sweeps(head: dict[str, Any], tmp_path: Path, driver: Driver) -> None:
    sweep = tmp_path / "fails.yaml"
    sweep.write_text(yaml.safe_dump(FAILS))
    at = ("--address", head["jobs"])
    _, err = complete(driver("submit", str(sweep), *at, "--out", str(tmp_path / "run"), "--follow"), 3)
    assert "has ended: FAILED, exit code 3" in err
    _, err = complete(
        driver("submit", "synthetic", *at, "--out", str(tmp_path / "no"), "--python", "/no/python", "--follow"), 127
    )
    assert "the head has no such Python" in err


def test_a_wrong_token_and_none_are_one_line(
    head: dict[str, Any], tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("submit", "synthetic", "--out", str(tmp_path / "run"), "--address")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token-that-is-wrong-here")
    _, err = complete(driver(*args, head["jobs"]), 2)
    assert err.count("\n") == 1
    assert "refuses this machine's token" in err
    assert "another-token" not in err
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    _, err = complete(driver(*args, head["jobs"]), 2)
    assert err.count("\n") == 1
    assert "asks for a token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token" in err
    _, err = complete(driver(*args, "http://127.0.0.1:1"), 2)
    assert "cannot connect to http://127.0.0.1:1: Connection refused" in err
    # the token file is found, too, and Ray's own port is no job server
    (tmp_path / "home" / ".ray").mkdir()
    (tmp_path / "home" / ".ray" / "auth_token").write_text(TOKEN)
    complete(driver("stop", "nothing", "--address", head["jobs"]), 2)
    _, err = complete(driver(*args, head["ray"]), 2)
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_ray_address_joins_the_cluster_and_is_not_stored(
    head: dict[str, Any], tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", head["ray"])
    run = tmp_path / "run"
    _, err = complete(driver("run", "synthetic", "--sampler", "random", "--trials", "4", "--out", str(run)))
    assert f"joining the Ray cluster at {head['ray']} (RAY_ADDRESS); --address local starts a local Ray" in err
    assert read_trials(run).num_rows == 4
    assert "address" not in yaml.safe_load((run / "sweep.yaml").read_text())
    assert not holds_token(run)
