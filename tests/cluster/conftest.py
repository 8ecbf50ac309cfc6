"""Clusters of several nodes on this machine, with GPUs that are declared only, and drivers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def open_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Start a cluster: a head without anything to give, and a node for each set of options; yields (nodes) -> it."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    from ray.cluster_utils import Cluster

    opened: list[Any] = []

    def start(*nodes: dict[str, Any]) -> Any:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0})
        opened.append(cluster)
        cluster.workers = [cluster.add_node(**options) for options in nodes]
        return cluster

    yield start
    for cluster in opened:
        cluster.shutdown()
