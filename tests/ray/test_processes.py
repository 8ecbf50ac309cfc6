"""What happens to a sweep when processes start, stop and die."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.storage.tables import read, read_trials
from tests.support.drivers import Driver, complete, wait_for_parts
from tests.support.waiting import PATIENCE, until
from trainables.result import SCORES
from trainables.spec import PairSpec

pytestmark = pytest.mark.ray
NUMBERS = [c.name for c in SCORES]


def numbers(run: Path) -> dict[str, dict[str, Any]]:
    return {r["digest"]: {n: r[n] for n in (*NUMBERS, "number", "outcome")} for r in read_trials(run).to_pylist()}


def test_one_ray_worker_and_inline_give_the_same_trials_bit_for_bit(
    tmp_path: Path, write_spec: Callable[..., str], driver: Driver
) -> None:
    for runner in ("ray", "inline"):
        spec = write_spec("noise", runner, workers=1, trials=4)
        complete(driver("run", spec, "--out", str(tmp_path / runner)))
    assert len(numbers(tmp_path / "ray")) == 4
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "inline")


def test_ray_prints_no_log_noise_and_json_stays_clean(
    tmp_path: Path, write_spec: Callable[..., str], driver: Driver
) -> None:
    out, err = complete(driver("run", write_spec(), "--out", str(tmp_path / "run"), "--json"))
    record = json.loads(out)
    assert record["trials"] == 6
    # progress, and each kind of warning once
    said = ("warning: ", "augmentation ", "a worker was free")
    progress = [line for line in err.splitlines() if not line.startswith(said)]
    assert all(line.split(" ")[1] == "trials," for line in progress), err
    kinds = [line.split(": ")[1] for line in err.splitlines() if line.startswith("warning: ")]
    assert len(kinds) == len(set(kinds))
    rows = read_trials(tmp_path / "run").to_pylist()
    assert len({r["host"] for r in rows}) == 1
    assert {r["threads"] for r in rows} == {1}


@pytest.mark.parametrize(
    ("runner", "number"), [("ray", signal.SIGINT), ("ray", signal.SIGTERM), ("inline", signal.SIGTERM)]
)
def test_a_signal_stops_cleanly_and_resume_finishes(
    tmp_path: Path, write_spec: Callable[..., str], driver: Driver, runner: str, number: signal.Signals
) -> None:
    run, trials = tmp_path / "run", 10 if runner == "ray" else 40  # inline trials are short
    process = driver("run", write_spec(runner=runner, trials=trials), "--out", str(run))
    wait_for_parts(run, 2, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, err = complete(process, 130)
    assert f"`sweeper resume {run}` continues" in err
    assert "Traceback" not in err
    kept = {p.name: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}
    assert 2 <= len(kept) < trials
    complete(driver("status", str(run)))
    complete(driver("resume", str(run), "--runner", "inline"))
    after = {p.name: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}
    assert len(after) == trials
    assert kept.items() <= after.items()


def test_a_dead_worker_fails_its_trial_and_the_sweep_continues(tmp_path: Path, driver: Driver) -> None:
    file = tmp_path / "deadly.py"
    file.write_text(
        "import os\nfrom optuna.distributions import CategoricalDistribution\nfrom search_spaces import Space\n"
        "from trainables.models import MODELS, SmallCNN\n\n"
        "@MODELS.register('deadly')\ndef deadly(classes, channels, die=False):\n"
        "    if die and 'ray' in __import__('sys').modules and os.environ.get('RAY_RAYLET_PID'):\n"
        "        os._exit(1)\n"
        "    return SmallCNN(classes, channels)\n\n"
        "SPACE = Space(doc='d', fixed={'dataset': 'digits', 'model': 'deadly', 'batch_size': 64, 'epochs': 1,\n"
        "              'learning_rate': 0.1}, knobs={'model_options': CategoricalDistribution(({}, {'die': True}))})\n"
    )
    run = tmp_path / "run"
    process = driver("run", str(file), "--trials", "4", "--sampler", "grid", "--workers", "1", "--max-failures", "1",
                     "--out", str(run))  # fmt: skip
    complete(process)
    rows = read_trials(run).to_pylist()
    assert Counter(r["outcome"] for r in rows) == {"ok": 1, "failed": 1}
    failed = next(r for r in rows if r["outcome"] == "failed")
    assert "the worker process died" in failed["outcome_detail"]
    assert read(run, "search").num_rows == 2


def test_a_cluster_by_address_with_its_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-token-of-this-test-that-is-long-enough")
    ray = Path(sys.executable).with_name("ray")
    options = ["--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    with (tmp_path / "head.log").open("w") as file:
        head = subprocess.Popen(
            [ray, "start", *options], env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        log = tmp_path / "head.log"
        until(lambda: head.poll() is not None or "Ray runtime started" in log.read_text(), log.read_text)
        assert head.poll() is None, log.read_text()
        run = tmp_path / "run"
        args = ["run", "synthetic", "--trials", "6", "--sampler", "random", "--address", f"127.0.0.1:{port}"]
        complete(driver(*args, "--out", str(run)))
        assert read_trials(run).num_rows == 6
        _, err = complete(driver(*args, "--device", "cuda", "--out", str(tmp_path / "gpu")), 2)
        assert "needs a GPU and the cluster has none" in err
    finally:
        head.terminate()
        head.wait(PATIENCE)


def test_a_killed_extension_continues_as_planned(
    tmp_path: Path, write_spec: Callable[..., str], driver: Driver
) -> None:
    run = tmp_path / "run"
    complete(driver("run", write_spec(sampler="qmc", runner="inline", trials=6), "--out", str(run)))
    before = {r["digest"] for r in read_trials(run).to_pylist()}
    wanted = "--objective", "gain_mean"  # it needs more trials than the sweep's own
    process = driver("extend", str(run), *wanted, "--noises", "6", "--repeats", "1", "--runner", "ray")
    wait_for_parts(run, 8, process)
    process.kill()
    process.wait()
    plan = json.loads((run / "extension.json").read_text())
    planned = {PairSpec.from_mapping(s).digest for p in plan for s in p["specs"]}
    assert len(planned) > 3
    kept = {p.name: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}
    complete(driver("extend", str(run), *wanted))
    rows = read_trials(run).to_pylist()
    assert sorted(r["digest"] for r in rows) == sorted(before | planned)
    assert {r["sampler"] for r in rows if r["digest"] in planned} == {"extend"}
    after = {p.name: p.stat().st_mtime_ns for p in (run / "trials").iterdir()}
    assert kept.items() <= after.items()
