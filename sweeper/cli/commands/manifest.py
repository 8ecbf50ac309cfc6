"""`sweeper manifest`: a sweep and the cluster it runs on as one file, for KubeRay or for `ray up`.

The sweep stands in it as a whole, a user's space file too; secrets stand in it by name only.
"""

from __future__ import annotations

import math
import re
from importlib.metadata import version
from typing import Any

from sweeper.cli.options import COMMON, COUNT, ENV, SET, TARGET, WHOLE, sweep_elsewhere
from sweeper.cli.parsing import Arguments, Choice, Option, command
from sweeper.cli.sweep_options import asked_sweep
from sweeper.config.fields import parse_bytes
from sweeper.config.space import members_of
from sweeper.config.spec import SweepSpec
from sweeper.deploy.bundle import carried, environment, name_of
from sweeper.deploy.plan import CPUS, NODES, Machines, Plan
from sweeper.errors import ExitCode, SpecError
from sweeper.runner.ray_tune.placement import Node, capacity, check_fits, layout
from trainables import __version__


def _of(flag: str, metavar: str, text: str, **rules: Any) -> Option:
    return Option(flag, metavar, text, group="manifest", **rules)


_MANIFEST = (
    _of("--kuberay", "", "Print a RayJob, for kubectl apply.", default=False),
    _of("--ray-up", "", "Print a cluster file, for ray up.", default=False),
    _of("--name", "NAME", "Name of the cluster and its job (default: the same for the same sweep)."),
    _of("--image", "IMAGE", "Container image with this package (default: sweeper:VERSION)."),
    _of("--cluster-workers", "N", "Nodes beside the head (default: 2).", type=COUNT),
    _of("--max-cluster-workers", "N", "Largest number of nodes beside the head (default: --cluster-workers).",
        type=COUNT),
    _of("--cpus-per-worker", "N", "CPUs per node (default: 8; --provider local needs a value).", type=COUNT),
    _of("--gpus-per-worker", "N", "GPUs per node (default: what a trial needs, else 0).", type=WHOLE),
    _of("--memory-per-worker", "BYTES", "Memory per node.", default="32Gi", show_default=True),
    _of("--shm", "BYTES", "Size of /dev/shm.", default="8Gi", show_default=True),
    ENV,
    _of("--token-secret", "NAME", "Secret with the key auth_token (default: KubeRay makes one)."),
    _of("--secret", "NAME", "Secret whose keys become variables of all pods, such as a store's credentials; "
        "repeatable.", multiple=True),
    _of("--volume-claim", "NAME", "Claim of a volume that all pods mount at /shared."),
    _of("--retries", "N", "New clusters that continue the sweep.", type=WHOLE, default=3, show_default=True),
    _of("--deadline", "S", "End the job after S seconds.", type=COUNT),
    _of("--keep-seconds", "S", "Keep the cluster for S seconds after the job.", type=WHOLE, default=300,
        show_default=True),
    _of("--provider", "aws|gcp|local", "Provider of --ray-up.", type=Choice(("aws", "gcp", "local")), default="aws",
        show_default=True),
    _of("--region", "NAME", "Region (default: us-west-2 on aws, us-west1 on gcp)."),
    _of("--zone", "NAME", "Zone on gcp (default: the region's first)."),
    _of("--project", "NAME", "Project on gcp."),
    _of("--instance", "TYPE", "Machine type of the nodes."),
    _of("--node-role", "NAME", "Instance profile (aws) or service account (gcp) with which all nodes reach the store "
        "(default: Ray gives one to the head only)."),
    _of("--head-ip", "HOST", "Head, for --provider local."),
    _of("--worker-ips", "HOST", "Nodes, for --provider local.", several=True),
    _of("--ssh-user", "NAME", "User of the nodes.", default="ubuntu", show_default=True),
)  # fmt: skip


@command(TARGET, sweep_elsewhere(), SET, _MANIFEST, COMMON)
def manifest(args: Arguments) -> int:
    """`sweeper manifest SPACE|spec.yaml --kuberay|--ray-up`."""
    from sweeper.deploy import kuberay, ray_up

    if args.kuberay == args.ray_up:
        raise SpecError("give one of --kuberay and --ray-up")
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
    return ExitCode.DONE


def _name(text: str) -> str:
    # a RayJob's name and what KubeRay adds to it must fit a label
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?", text):
        raise SpecError(f"--name must be of at most 47 small letters, digits and hyphens, got {text!r}")
    return text


def _machines(args: Arguments, spec: SweepSpec) -> Machines:
    asked = spec.resources
    on_gpus = spec.device.startswith("cuda") or asked.gpus_per_member or asked.gpus_per_pair
    gpus = args.gpus_per_worker if args.gpus_per_worker is not None else math.ceil(on_gpus or 0)
    given = args.ray_up and args.provider == "local"
    nodes, most = _counts(args, given)
    cpus = args.cpus_per_worker or CPUS
    return Machines(nodes, most, cpus, gpus, _bytes(args, "memory_per_worker"), _bytes(args, "shm"), given)


def _counts(args: Arguments, given: bool) -> tuple[int, int]:
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


def _bytes(args: Arguments, key: str) -> int:
    try:
        return int(parse_bytes(getattr(args, key)))
    except ValueError as error:
        raise SpecError(f"--{key.replace('_', '-')} {error}") from None
