"""`sweeper manifest`: a sweep and the cluster it runs on as one file, for KubeRay or for `ray up`.

The sweep stands in it as a whole, a user's space file too; secrets stand in it by name only.
"""

from __future__ import annotations

import argparse
import math
import re
from importlib.metadata import version

from sweeper.cli.sweep_options import asked_sweep
from sweeper.config.fields import parse_bytes
from sweeper.config.space import members_of
from sweeper.config.spec import SweepSpec
from sweeper.deploy.bundle import carried, environment, name_of
from sweeper.deploy.plan import CPUS, NODES, Machines, Plan
from sweeper.errors import SpecError
from sweeper.runner.ray_tune.placement import Node, capacity, check_fits, layout
from trainables import __version__

DONE = 0


def manifest(args: argparse.Namespace) -> int:
    """`sweeper manifest SPACE|spec.yaml --kuberay|--ray-up`."""
    from sweeper.deploy import kuberay, ray_up

    spec = asked_sweep(args, elsewhere=True)
    machines = _machines(args, spec)
    found = carried(_on_all(machines, spec))
    plan = Plan(
        _name(args.name or name_of(spec, found)),
        found,
        args.image or f"sweeper:{__version__}",
        machines,
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
    given = args.ray_up and args.provider == "local"
    nodes, most = _counts(args, given)
    cpus = args.cpus_per_worker or CPUS
    return Machines(nodes, most, cpus, gpus, _bytes(args, "memory_per_worker"), _bytes(args, "shm"), given)


def _counts(args: argparse.Namespace, given: bool) -> tuple[int, int]:
    if given:
        if args.cluster_workers or args.max_cluster_workers:
            raise SpecError("--provider local has the machines of --worker-ips: leave out --[max-]cluster-workers")
        if args.cpus_per_worker is None:
            raise SpecError("--provider local needs --cpus-per-worker, the CPUs of each of its machines")
        return len(args.worker_ips or ()), len(args.worker_ips or ())
    nodes = args.cluster_workers or NODES
    most = args.max_cluster_workers or nodes
    if most < nodes:
        raise SpecError(f"--max-cluster-workers must be at least --cluster-workers = {nodes}, got {most}")
    return nodes, most


def _on_all(found: Machines, spec: SweepSpec) -> SweepSpec:
    """Return the sweep as it uses all nodes that there may be: it starts when the head may be the only one.

    Raises:
        SpecError: They could never hold a trial.
    """
    on_gpus = spec.device.startswith("cuda") or (spec.device == "auto" and found.gpus > 0)
    if spec.device.startswith("cuda") and not found.gpus:
        raise SpecError(f"device {spec.device!r} asks for a GPU and --gpus-per-worker is 0")
    asked = spec.resources
    if on_gpus and asked.gpus_per_pair is None and asked.ranks is None:
        asked = asked.model_copy(update={"gpus_per_pair": 1.0})
    has = {"CPU": float(found.cpus), "GPU": float(found.gpus), "memory": float(found.memory)}
    nodes = [Node(has, _labels(spec))] * (found.most + found.given)
    wanted = layout(asked, spec.threads, 0, members_of(spec.load_space()))
    check_fits(nodes, wanted)
    workers = spec.workers if isinstance(spec.workers, int) else capacity(nodes, wanted)
    if not found.given:
        asked = asked.model_copy(update={"autoscaling": True})
    return spec.model_copy(update={"workers": workers, "resources": asked})


def _labels(spec: SweepSpec) -> dict[str, str]:
    # of Ray's selectors, `!a` and `in(a,b)` name no label that a node could be given
    return {k: v for k, v in spec.resources.labels.items() if not v.startswith(("!", "in("))}


def _bytes(args: argparse.Namespace, key: str) -> int:
    try:
        return int(parse_bytes(getattr(args, key)))
    except ValueError as error:
        raise SpecError(f"--{key.replace('_', '-')} {error}") from None
