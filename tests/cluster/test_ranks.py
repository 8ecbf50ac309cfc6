"""Trials whose children have processes of their own, on clusters that lose some of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.storage.tables import read_trials
from tests.support.drivers import Driver, children_processes, complete, parts, wait_until
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.cluster, pytest.mark.soak]

SPEC = """\
space: digits_cnn
sampler: random
device: cpu
seed: 3
trials: {trials}
fixed: {{epochs: {epochs}, dtype: {dtype}}}
parameters: {{batch_size: {{values: [16, 32]}}}}
measure: 0
resources: {resources}
"""
GROUPS = """
import json, sys, ray
from ray.util import placement_group_table
ray.init(address=sys.argv[1], log_to_driver=False)
groups = [g for g in placement_group_table().values() if g["state"] != "REMOVED"]
free, has = ray.available_resources(), ray.cluster_resources()
print(json.dumps({"groups": len(groups), "free": free.get("GPU", 0), "has": has.get("GPU", 0)}))
"""


def write(path: Path, resources: str, trials: int = 4, epochs: int = 1, dtype: str = "float32") -> str:
    path.write_text(SPEC.format(resources=resources, trials=trials, epochs=epochs, dtype=dtype))
    return str(path)


def values(run: Path) -> dict[str, Any]:
    names = ("digest", "outcome", "outcome_detail", "merged_loss_val", "merged_loss_test", "distance", "a_loss_train")
    return {r["digest"]: tuple(r[n] for n in names) for r in read_trials(run).to_pylist()}


def what_is_left(address: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", GROUPS, address], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_node_is_killed_and_nothing_is_lost(tmp_path: Path, open_cluster: Callable[..., Any], driver: Driver) -> None:
    cluster = open_cluster(*({"num_cpus": 2, "num_gpus": 2} for _ in range(3)))
    spec = write(tmp_path / "spec.yaml", "{gpus_per_member: 1}", trials=5, epochs=2)
    run = tmp_path / "run"
    process = driver("run", spec, "--address", cluster.address, "--out", str(run))
    wait_until(lambda: parts(run) >= 1, process)
    cluster.remove_node(cluster.workers[0], allow_graceful=False)
    complete(process)
    rows = read_trials(run).to_pylist()
    assert Counter(r["outcome"] for r in rows) == {"ok": 5}
    assert len({r["digest"] for r in rows}) == 5
    left = what_is_left(cluster.address)
    assert (left["groups"], left["free"], left["has"]) == (0, 4, 4)
    # what one process gets, one child after the other
    alone = write(tmp_path / "alone.yaml", "{}", trials=5, epochs=2)
    complete(driver("run", alone, "--runner", "inline", "--stack", "off", "--out", str(tmp_path / "alone")))
    assert values(run) == values(tmp_path / "alone")


def test_a_rank_that_dies_takes_its_attempt_and_two_ranks_are_one(
    tmp_path: Path, open_cluster: Callable[..., Any], driver: Driver
) -> None:
    cluster = open_cluster({"num_cpus": 4})
    spec = write(tmp_path / "spec.yaml", "{ranks_per_member: 2}", trials=3, epochs=1, dtype="float64")
    run = tmp_path / "run"
    process = driver("run", spec, "--address", cluster.address, "--out", str(run))
    wait_until(lambda: parts(run) >= 1, process)
    victims = children_processes("RankProcess")
    assert len(victims) >= 4
    os.kill(victims[-1], signal.SIGKILL)
    complete(process)
    rows = read_trials(run).to_pylist()
    assert Counter((r["outcome"], r["ranks"]) for r in rows) == {("ok", 2): 3}
    assert what_is_left(cluster.address)["groups"] == 0
    alone = write(tmp_path / "alone.yaml", "{}", trials=3, epochs=1, dtype="float64")
    complete(driver("run", alone, "--runner", "inline", "--stack", "off", "--out", str(tmp_path / "alone")))
    expected = values(tmp_path / "alone")
    for digest, found in values(run).items():
        assert found[3:] == pytest.approx(expected[digest][3:], rel=1e-8)
    # what can never be placed is refused with what there is
    args = ("run", write(tmp_path / "no.yaml", "{gpus_per_member: 4}"), "--out", str(tmp_path / "no"))
    err = complete(driver(*args, "--address", cluster.address), 2)[1]
    assert "a trial needs 8 bundles of 1 CPU, 1 GPU, which the cluster can never place on its" in err
    assert not (tmp_path / "no" / "sweep.yaml").exists()
