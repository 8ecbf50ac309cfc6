"""What a sweep asks of the Ray it runs on, before the first trial; Ray itself is a stand-in."""

from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.runner.ray_tune import tuner

HEAD = {"Alive": True, "Resources": {"CPU": 0.0}, "Labels": {}}
NODE = {"Alive": True, "Resources": {"CPU": 4.0}, "Labels": {}}


@pytest.fixture(autouse=True)
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The nodes of the cluster, to be changed: at first the head that runs the driver."""
    found = [HEAD]
    monkeypatch.setattr(tuner.ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(tuner.ray, "nodes", lambda: found)
    monkeypatch.setattr(tuner, "_silence", lambda: None)
    return found


def connected(**asked: Any) -> int:
    spec = SweepSpec.checked({"space": "synthetic", "device": "cpu", "address": "head:6379", **asked})
    return tuner.connect(spec, 2)[0]


def test_where_nodes_are_added_the_sweep_says_for_how_many_trials(nodes: list[dict[str, Any]]) -> None:
    grows = {"resources": {"autoscaling": True}}
    assert connected(**grows, workers=40) == 40
    with pytest.raises(SpecError, match=r"autoscaling needs workers, .*, got auto: --workers N"):
        connected(**grows)
    with pytest.raises(SpecError, match="can never place"):
        connected(workers=40)
    nodes.append(NODE)
    assert connected() == 4


def test_a_ray_of_its_own_adds_no_nodes(nodes: list[dict[str, Any]]) -> None:
    # a sweep of a cluster that is continued on a machine without GPUs
    nodes[:] = [NODE]
    asked = {"autoscaling": True, "gpus_per_pair": 1}
    with pytest.raises(SpecError, match="can never place"):
        connected(address=None, workers=2, resources=asked)


@pytest.mark.parametrize("named", [True, False])
def test_a_sweep_that_the_cluster_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    def refuse(session: object) -> None:
        raise SpecError("no node has 9 GPUs")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuner, "run_cluster", refuse)
    out = str(tmp_path / "run") if named else None
    with pytest.raises(SpecError, match="no node has 9 GPUs"):
        sweeper.run(SweepSpec(space="synthetic", trials=2, sampler="random", out=out))
    assert not list(tmp_path.glob("**/sweep.yaml"))
    assert not list((tmp_path / "runs").glob("*"))
    if named:  # and it can be run there with what fits
        found = sweeper.run(SweepSpec(space="synthetic", trials=2, sampler="random", runner="inline", out=out))
        assert found.trials.num_rows == 2


def test_an_autoscaling_cluster_is_asked_for_gpus(nodes: list[dict[str, Any]]) -> None:
    grows = {"resources": {"autoscaling": True}, "workers": 4, "device": "auto"}
    with pytest.raises(SpecError, match="device auto is undecided on a cluster that has no nodes yet"):
        connected(**grows)
    nodes.append({**NODE, "Resources": {"CPU": 4.0, "GPU": 2.0}})
    assert connected(**grows) == 4
