"""Plan of a deployment: machines, names and the sweep they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sweeper.config.yaml_text import Writer
from sweeper.deploy.bundle import Carried

NODES, CPUS = 2, 8
"""Beside the head, and of each."""


HEAD_CPUS, HEAD_MEMORY = 4, 16 * 2**30
"""Of the head, which runs the driver and no trials."""


@dataclass(frozen=True)
class Machines:
    """The nodes that run trials.

    Attributes:
        nodes, most: How many there are beside the head from the start, and at most.
        cpus, gpus: Of each.
        memory, shm: Of each, and what of it /dev/shm may take [bytes].
        given: Whether they are machines that are there, the head one of them: none is started, and all run trials.
    """

    nodes: int
    most: int
    cpus: int
    gpus: int
    memory: int
    shm: int
    given: bool


@dataclass(frozen=True)
class Plan:
    """What a manifest is made of.

    Attributes:
        name: Of the cluster and its job.
        found: The sweep.
        image: Container image that holds this package; see the Dockerfile.
        machines: The nodes.
        labels: Of the nodes, as the sweep selects them.
        variables: Of the job's environment; none is secret.
        ray: Version of Ray in the image.
    """

    name: str
    found: Carried
    image: str
    machines: Machines
    labels: Mapping[str, str]
    variables: Mapping[str, str]
    ray: str


class _Text(Writer):
    """Writes text of several lines as it is."""

    blocks = True


def document(comments: Sequence[str], *parts: Mapping[str, Any]) -> str:
    """Return YAML documents below lines of comments."""
    head = "".join(f"# {line}\n" if line else "#\n" for line in comments)
    return head + yaml.dump_all(
        parts, Dumper=_Text, sort_keys=False, width=1000, allow_unicode=True, explicit_start=len(parts) > 1
    )
