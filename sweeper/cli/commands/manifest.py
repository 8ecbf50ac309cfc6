"""`sweeper manifest`: one YAML file with a sweep and a new cluster for it, for KubeRay or for `ray up`."""

from __future__ import annotations

from typing import Any

from sweeper.cli.options import COMMON, COUNT, SET, TARGET, WHOLE, job_sweep_options
from sweeper.cli.parsing import Arguments, Option, command
from sweeper.cli.sweep_options import read_sweep
from sweeper.config.fields import parse_bytes
from sweeper.deploy.manifest import Cluster, render_kuberay, render_ray_up
from sweeper.errors import ExitCode, SpecError
from trainables import __version__


def _option(flag: str, metavar: str, text: str, **rules: Any) -> Option:
    return Option(flag, metavar, text, group="manifest", **rules)


_MANIFEST = (
    _option("--kuberay", "", "Print a RayJob for `kubectl apply`.", default=False),
    _option("--ray-up", "", "Print a cluster file for `ray up` on AWS.", default=False),
    _option("--name", "NAME", "Name of the cluster and its job (default: follows from the sweep)."),
    _option("--image", "IMAGE", "Container image with this package.", default=f"sweeper:{__version__}",
            show_default=True),
    _option("--cluster-workers", "N", "Nodes beside the head.", type=COUNT, default=2, show_default=True),
    _option("--cpus-per-worker", "N", "CPUs per node.", type=COUNT, default=8, show_default=True),
    _option("--gpus-per-worker", "N", "GPUs per node (default: as many as a trial needs, else 0).", type=WHOLE),
    _option("--memory-per-worker", "BYTES", "Memory per node.", default="32Gi", show_default=True),
    _option("--namespace", "NAME", "Kubernetes namespace (default: that of `kubectl`)."),
    _option("--secret", "NAME", "Kubernetes secret whose keys become variables of all pods, such as a store's "
            "credentials; repeatable.", multiple=True),
    _option("--volume-claim", "NAME", "Kubernetes volume claim that all pods mount at /shared."),
    _option("--node-role", "NAME", "Instance profile with which all nodes of `ray up` reach the store (default: Ray "
            "gives one to the head only)."),
)  # fmt: skip


@command(TARGET, job_sweep_options(), SET, _MANIFEST, COMMON)
def manifest(args: Arguments) -> int:
    """`sweeper manifest SPACE|spec.yaml --kuberay|--ray-up`."""
    if args.kuberay == args.ray_up:
        raise SpecError("give either --kuberay or --ray-up")
    try:
        memory = int(parse_bytes(args.memory_per_worker))
    except ValueError as error:
        raise SpecError(f"--memory-per-worker {error}") from None
    cluster = Cluster(
        name=args.name or "",
        image=args.image,
        workers=args.cluster_workers,
        cpus=args.cpus_per_worker,
        gpus=args.gpus_per_worker,
        memory=memory,
        namespace=args.namespace or "",
        secrets=tuple(args.secret or ()),
        volume_claim=args.volume_claim or "",
        node_role=args.node_role or "",
    )
    render = render_kuberay if args.kuberay else render_ray_up
    print(render(read_sweep(args, elsewhere=True), cluster), end="")
    return ExitCode.DONE
