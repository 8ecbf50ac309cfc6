"""Sweeps that are sent as jobs to a head with its job server, started elsewhere on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.store import read_trials
from tests.cluster.cluster_tools import Driver, wait_until

pytestmark = pytest.mark.cluster

TOKEN = "a-token-of-this-test-that-nobody-may-see"
MINE = """\
from optuna.distributions import FloatDistribution
from search_spaces import Space

SPACE = Space(doc="mine", fixed=dict(trainable="synthetic", dataset="synthetic", model="synthetic", batch_size=32),
              knobs={"learning_rate": FloatDistribution(1e-3, 0.5, log=True)})
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the job server of a head that asks for a token."""
    gcs, jobs, agent, client, metrics = free_ports(5)
    # the job's command finds the interpreter on its path; nothing of this checkout is on it
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with tempfile.TemporaryDirectory(prefix="rh", ignore_cleanup_errors=True) as folder:
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2", f"--port={gcs}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs}", f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}", f"--temp-dir={folder}",
            "--disable-usage-stats",
        ]  # fmt: skip
        log = Path(folder) / "head.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 120
            while not _listens(jobs):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.3)
            yield f"http://127.0.0.1:{jobs}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def complete(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=400)
    assert process.returncode == code, (out[-3000:], err[-3000:])
    assert TOKEN not in out + err
    return out, err


def told(driver: Driver, *args: str) -> dict[str, Any]:
    return json.loads(complete(driver(*args, "--json"))[0])


@pytest.mark.usefixtures("token")
def test_a_space_of_ones_own_is_sent_from_an_empty_folder(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    folder, out = tmp_path / "empty", tmp_path / "shared" / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (folder / "mine.py").write_text(MINE)
    (folder / "spec.yaml").write_text("space: mine.py\nsampler: random\ntrials: 4\n")
    args = ("submit", "spec.yaml", "--address", head, "--out", str(out))
    said, _ = complete(driver(*args, "--follow"))
    job = re.search(r"job (sweeper-mine-[0-9a-f]{8}) runs", said)
    assert job, said
    assert "4/4 configurations" in said
    assert read_trials(out).num_rows == 4
    assert sorted(p.name for p in folder.iterdir()) == ["mine.py", "spec.yaml"]
    done = told(driver, "status", job[1], "--address", head)
    assert (done["status"], done["exit_code"]) == ("SUCCEEDED", 0)
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path
    # over: the same again is a new job, which finds all of it done
    again, _ = complete(driver(*args, "--follow"))
    assert f"job {job[1]}-2 runs" in again
    # its exit code is the job's own
    _, _ = complete(driver(*args[:-1], str(tmp_path / "bad"), "--follow", "--device", "cuda"), 2)
    _, err = complete(driver("status", "nothing", "--address", head), 2)
    assert "there is no job 'nothing'" in err
    _, err = complete(driver("stop", job[1], "--address", head), 2)
    assert "does not run: it is succeeded" in err


@pytest.mark.usefixtures("token")
def test_whoever_leaves_or_stops_a_job_keeps_its_trials(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    out = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    args = ("submit", "synthetic", "--sampler", "random", "--trials", "200", "--address", head, "--out", str(out))
    process = driver(*args, "--follow", "--job-id", "mine", "--env", "SWEEPER_SYNTHETIC_SECONDS=0.5")
    wait_until(lambda: len(list((out / "trials").glob("*.parquet"))) >= 2, process)
    process.send_signal(signal.SIGINT)
    _, err = complete(process)
    assert "the job goes on: `sweeper status mine" in err
    assert told(driver, "status", "mine", "--address", head)["status"] == "RUNNING"
    _, err = complete(driver(*args, "--job-id", "mine"), 2)
    assert "there is a job mine already (running)" in err
    complete(driver("stop", "mine", "--address", head))
    deadline = time.monotonic() + 120
    while (last := told(driver, "status", "mine", "--address", head))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(1)
    assert last["status"] == "STOPPED"
    kept = read_trials(out).num_rows
    assert 2 <= kept < 200
    more = ("--trials", str(kept + 2), "--job-id", "more", "--follow")
    complete(driver(*args[:4], *args[6:], *more))
    assert read_trials(out).num_rows == kept + 2


def test_without_the_right_token_there_is_one_line(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    args = ("submit", "synthetic", "--address", head, "--out", str(tmp_path / "run"))
    _, err = complete(driver(*args), 2)
    assert err.count("\n") == 1
    assert "asks for a token: set RAY_AUTH_TOKEN" in err
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-token-that-is-wrong-but-long-enough")
    _, err = complete(driver(*args), 2)
    assert err.count("\n") == 1
    assert "refuses the token" in err
