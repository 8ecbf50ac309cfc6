"""`sweeper manifest`: a sweep and the cluster it runs on as one file, for KubeRay or for `ray up`.

The sweep stands in it as a whole, a user's space file too; secrets stand in it by name only.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import yaml

from trainables import __version__

from .carrying import Carried, carried, environment, name_of
from .flags import asked_sweep
from .parameter import parse_bytes
from .resources import Node, check_fits, layout
from .spec import SpecError, SweepSpec, members_of

DONE = 0
HEAD_CPUS, HEAD_MEMORY = 4, 16 * 2**30
"""Of the head, which runs the driver and no trials."""


@dataclass(frozen=True)
class Machines:
    """The nodes that run trials.

    Attributes:
        nodes, most: How many there are from the start, and at most.
        cpus, gpus: Of each.
        memory, shm: Of each, and what of it /dev/shm may take [bytes].
    """

    nodes: int
    most: int
    cpus: int
    gpus: int
    memory: int
    shm: int


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


def manifest(args: argparse.Namespace) -> int:
    """`sweeper manifest SPACE|spec.yaml --kuberay|--ray-up`."""
    from . import kuberay, ray_up

    spec = asked_sweep(args, elsewhere=True)
    found = carried(spec)
    plan = Plan(
        _name(args.name or name_of(spec, found)),
        found,
        args.image or f"sweeper:{__version__}",
        _machines(args, spec),
        _labels(spec),
        environment(args.env or ()),
        version("ray"),
    )
    print((kuberay.text if args.kuberay else ray_up.text)(plan, args), end="")
    return DONE


def _name(text: str) -> str:
    # a RayJob's name and what KubeRay adds to it must fit a label
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?", text):
        raise SpecError(f"--name must be of at most 47 small letters, digits and hyphens, got {text!r}")
    return text


def _machines(args: argparse.Namespace, spec: SweepSpec) -> Machines:
    asked = spec.resources
    on_gpus = spec.device.startswith("cuda") or asked.gpus_per_member or asked.gpus_per_pair
    gpus = args.gpus_per_worker if args.gpus_per_worker is not None else math.ceil(on_gpus or 0)
    most = args.max_cluster_workers or args.cluster_workers
    if most < args.cluster_workers:
        raise SpecError(
            f"--max-cluster-workers must be at least --cluster-workers = {args.cluster_workers}, got {most}"
        )
    found = Machines(
        args.cluster_workers, most, args.cpus_per_worker, gpus, _bytes(args, "memory_per_worker"), _bytes(args, "shm")
    )
    _check_room(found, spec)
    return found


def _check_room(found: Machines, spec: SweepSpec) -> None:
    on_gpus = spec.device.startswith("cuda") or (spec.device == "auto" and found.gpus > 0)
    if spec.device.startswith("cuda") and not found.gpus:
        raise SpecError(f"device {spec.device!r} asks for a GPU and --gpus-per-worker is 0")
    has = {"CPU": float(found.cpus), "GPU": float(found.gpus), "memory": float(found.memory)}
    wanted = layout(spec.resources, spec.threads, 1 if on_gpus else 0, members_of(spec.load_space()))
    check_fits([Node(has, _labels(spec))] * found.most, wanted)


def _labels(spec: SweepSpec) -> dict[str, str]:
    # of Ray's selectors, `!a` and `in(a,b)` name no label that a node could be given
    return {k: v for k, v in spec.resources.labels.items() if not v.startswith(("!", "in("))}


def _bytes(args: argparse.Namespace, key: str) -> int:
    try:
        return int(parse_bytes(getattr(args, key)))
    except ValueError as error:
        raise SpecError(f"--{key.replace('_', '-')} {error}") from None


class _Text(yaml.SafeDumper):
    """Writes text of several lines as it is, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _as_block(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Text.add_representer(str, _as_block)


def document(comments: Sequence[str], *parts: Mapping[str, Any]) -> str:
    """Return YAML documents below lines of comments."""
    head = "".join(f"# {line}\n" if line else "#\n" for line in comments)
    return head + yaml.dump_all(
        parts, Dumper=_Text, sort_keys=False, width=1000, allow_unicode=True, explicit_start=len(parts) > 1
    )
