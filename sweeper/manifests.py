"""`sweeper manifest`: a sweep as a KubeRay RayJob or as a cluster for `ray up`, printed as YAML."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from .flags import MACHINE_KEYS, RUN_KEYS, flags
from .places import is_uri
from .spec import SpecError, SweepSpec, load_spec
from .specfile import assignments
from .submitting import SHIPPED, check_out

MOUNT = "/etc/sweeper"
DAY = 24 * 3600


@dataclass(frozen=True)
class Cluster:
    """What a cluster for a sweep looks like.

    Attributes:
        image: Container image with this package; see the Dockerfile.
        workers: Worker nodes.
        cpus: CPUs of a worker.
        memory: Memory of a worker, as Kubernetes writes it.
        gpus: GPUs of a worker.
        secret: Secret with the storage's credentials as environment variables; None needs none.
        token_secret: Secret with the cluster's token under the key `auth_token`; None lets KubeRay make one.
        retries: New clusters after a failure; the sweep goes on from its run folder.
        seconds: Longest time of the job.
    """

    image: str
    workers: int = 2
    cpus: int = 8
    memory: str = "32Gi"
    gpus: int = 0
    secret: str | None = None
    token_secret: str | None = None
    retries: int = 3
    seconds: int = 7 * DAY


class _Block(str):
    pass


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Block, lambda d, text: d.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def manifest(args: argparse.Namespace) -> int:
    """`sweeper manifest SPACE|spec.yaml --kuberay|--ray-up`."""
    given = flags(args, tuple(k for k in RUN_KEYS + MACHINE_KEYS if k not in ("address", "workers")))
    if args.set:
        given["fixed"] = assignments(args.set)
    spec = load_spec(args.target, given)
    check_out(spec.out)
    for name in ("cluster_workers", "cpus_per_worker"):
        if getattr(args, name) < 1:
            raise SpecError(f"--{name.replace('_', '-')} must be >= 1, got {getattr(args, name)}")
    cluster = Cluster(
        args.image, args.cluster_workers, args.cpus_per_worker, args.memory_per_worker, args.gpus_per_worker,
        args.secret, args.token_secret,
    )  # fmt: skip
    check_can_hold(spec, cluster)
    print(dump(ray_up(spec, cluster) if args.ray_up else kuberay(spec, cluster)), end="")
    return 0


def check_can_hold(spec: SweepSpec, cluster: Cluster) -> None:
    """Check that a trial fits on the workers.

    Raises:
        SpecError: It never does.
    """
    from .resources import Node, check_fits, layout
    from .spec import corners

    space = spec.load_space()
    members = max(space.build(params).members for params in corners(space))
    gpus = 1 if cluster.gpus and not spec.device.startswith("cpu") else 0
    found = layout(spec.resources, spec.threads, gpus, members)
    has: dict[str, float] = {
        "CPU": cluster.cpus,
        "GPU": cluster.gpus,
        "memory": _bytes(cluster.memory),
        **spec.resources.custom,
    }
    check_fits([Node(has, spec.resources.labels)] * cluster.workers, found)


def dump(*documents: Any) -> str:
    """Return documents as YAML; several texts in one where a document is a list."""
    parts = documents[0] if isinstance(documents[0], list) else list(documents)
    return yaml.dump_all(parts, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def name_of(spec: SweepSpec) -> str:
    """Return a name that Kubernetes accepts."""
    return f"sweeper-{re.sub('[^a-z0-9]+', '-', Path(spec.space).stem.lower()).strip('-')}"[:40]


def files_of(spec: SweepSpec) -> dict[str, str]:
    """Return the sweep as files: its spec, and the user's own space file."""
    if not spec.space.endswith(".py"):
        return {SHIPPED: spec.to_yaml()}
    name = Path(spec.space).name
    return {SHIPPED: spec.model_copy(update={"space": name}).to_yaml(), name: Path(spec.space).read_text()}


def _command(spec: SweepSpec) -> str:
    return f"python -m sweeper run {MOUNT}/{SHIPPED} --address auto --yes --out {shlex.quote(str(spec.out))}"


def kuberay(spec: SweepSpec, cluster: Cluster) -> list[dict[str, Any]]:
    """Return a ConfigMap with the sweep and the RayJob that runs it."""
    name = name_of(spec)
    auth: dict[str, Any] = {"mode": "token"}
    if cluster.token_secret:
        auth["secretName"] = cluster.token_secret
    worker = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    if cluster.gpus:
        worker["nvidia.com/gpu"] = str(cluster.gpus)
    head = {"cpu": "2", "memory": "8Gi"}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name},
        "spec": {
            "submissionMode": "K8sJobMode",
            "entrypoint": _command(spec),
            "runtimeEnvYAML": _Block(yaml.safe_dump({"env_vars": {
                "RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"
            }})),
            "backoffLimit": cluster.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": 300,
            "activeDeadlineSeconds": cluster.seconds,
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": auth,
                "headGroupSpec": {
                    # trials run on the workers; the dashboard is for the cluster's inside only
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                    "template": _pod(name, cluster, "ray-head", head, mounted=True),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": cluster.workers,
                        "minReplicas": cluster.workers,
                        "maxReplicas": cluster.workers,
                        "rayStartParams": _labels(spec),
                        "template": _pod(name, cluster, "ray-worker", worker),
                    }
                ],
            },
        },
    }  # fmt: skip
    files = {file: _Block(text) for file, text in files_of(spec).items()}
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}, job]


def _labels(spec: SweepSpec) -> dict[str, str]:
    labels = ",".join(f"{k}={v}" for k, v in spec.resources.labels.items())
    return {"labels": labels} if labels else {}


def _pod(
    name: str, cluster: Cluster, container: str, limits: Mapping[str, str], mounted: bool = False
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": container,
        "image": cluster.image,
        "resources": {"limits": dict(limits), "requests": dict(limits)},
        # Ray's objects and the loaders' batches lie in shared memory
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    volumes: list[dict[str, Any]] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if cluster.secret:
        found["envFrom"] = [{"secretRef": {"name": cluster.secret}}]
    if mounted:
        found["volumeMounts"].append({"name": "sweep", "mountPath": MOUNT})
        volumes.append({"name": "sweep", "configMap": {"name": name}})
    return {"spec": {"containers": [found], "volumes": volumes}}


def ray_up(spec: SweepSpec, cluster: Cluster) -> dict[str, Any]:
    """Return a cluster for `ray up`, on AWS as it stands; the sweep's files are written on its head.

    Raises:
        SpecError: Its results would be gone with the cluster.
    """
    if not is_uri(str(spec.out)):
        raise SpecError(
            f"--out must be a URI such as s3://... with --ray-up: its nodes share no folder, got {spec.out}"
        )
    writes = [
        f"cat > {MOUNT}/{name} <<'END_OF_FILE'\n{text.rstrip()}\nEND_OF_FILE" for name, text in files_of(spec).items()
    ]
    resources = {"CPU": cluster.cpus, **({"GPU": cluster.gpus} if cluster.gpus else {})}
    kind = "g5.2xlarge" if cluster.gpus else "m7i.2xlarge"
    return {
        "cluster_name": name_of(spec),
        "max_workers": cluster.workers,
        "idle_timeout_minutes": 10,
        "provider": {"type": "aws", "region": "us-west-2", "cache_stopped_nodes": False},
        "auth": {"ssh_user": "ubuntu"},
        "docker": {
            "image": cluster.image,
            "container_name": "sweeper",
            "pull_before_run": True,
            "run_options": ["--shm-size=8g", *(["--gpus all"] if cluster.gpus else [])],
        },
        "head_node_type": "head",
        "available_node_types": {
            # the numbers are what the sweep counts on; choose instances that have them
            "head": {"resources": {"CPU": 0}, "node_config": {"InstanceType": "m7i.large"}},
            "worker": {
                "min_workers": cluster.workers,
                "max_workers": cluster.workers,
                "resources": resources,
                **({"labels": dict(spec.resources.labels)} if spec.resources.labels else {}),
                "node_config": {"InstanceType": kind},
            },
        },
        "head_setup_commands": [f"mkdir -p {MOUNT}", *map(_Block, writes)],
        "head_start_ray_commands": [
            "ray stop",
            "ray start --head --port=6379 --num-cpus=0 --autoscaling-config=~/ray_bootstrap_config.yaml "
            "--dashboard-host=127.0.0.1",
        ],
        "worker_start_ray_commands": ["ray stop", "ray start --address=$RAY_HEAD_IP:6379"],
    }


def _bytes(text: str) -> float:
    from .parameter import parse_bytes

    try:
        return float(parse_bytes(text))
    except ValueError as error:
        raise SpecError(f"--memory-per-worker {error}") from None
