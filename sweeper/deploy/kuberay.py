"""A sweep as a KubeRay RayJob: the cluster comes with the job, runs it, and goes when it is done."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sweeper.config.yaml_text import write
from sweeper.deploy.command import STOPPABLE, command_of
from sweeper.errors import SpecError
from sweeper.storage.location import is_uri
from sweeper.storage.run_folder import SPEC_FILE

if TYPE_CHECKING:
    from sweeper.deploy.plan import Plan

FOLDER, SHARED = "/sweep", "/shared"
"""Where pods find the sweep, and a volume that they share."""
MOST_CONFIG_BYTES = 1_000_000
SETUP_SECONDS = 1800


def text(plan: Plan, args: SimpleNamespace) -> str:
    """Return the manifest: a ConfigMap with the sweep, and a RayJob that runs it.

    Raises:
        SpecError: Pods could not reach the run folder, or the sweep is too large for a ConfigMap.
    """
    from sweeper.deploy.plan import document

    if not is_uri(plan.found.out) and not (args.volume_claim and plan.found.out.startswith(f"{SHARED}/")):
        raise SpecError(
            f"pods share no folder {plan.found.out}: give --out as a URI (s3://BUCKET/PATH), or below {SHARED} with "
            "--volume-claim NAME, a claim that all pods may mount"
        )
    if sum(len(data) for data in plan.found.files.values()) > MOST_CONFIG_BYTES:
        raise SpecError(
            f"the sweep's files must fit a ConfigMap ({MOST_CONFIG_BYTES / 1e6:g} MB); build them into --image"
        )
    if wrong := [name for name in plan.found.files if not re.fullmatch(r"[-._a-zA-Z0-9]+", name)]:
        raise SpecError(f"a file in a ConfigMap must be named by letters, digits, dots and hyphens, got {wrong[0]!r}")
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": plan.name},
        "data": {name: data.decode() for name, data in sorted(plan.found.files.items())},
    }
    comments = [
        "kubectl apply -f THIS_FILE    starts the sweep, or continues it where its run folder holds a part of it",
        "kubectl get -f THIS_FILE      shows how it is",
        "kubectl delete -f THIS_FILE   stops it; finished trials are kept, and apply continues it",
    ]
    return document(comments, config, _job(plan, args))


def _job(plan: Plan, args: SimpleNamespace) -> dict[str, Any]:
    runtime_env = {
        "env_vars": {**plan.variables, **STOPPABLE},
        "config": {"setup_timeout_seconds": SETUP_SECONDS},
    }
    deadline = {"activeDeadlineSeconds": args.deadline} if args.deadline else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": plan.name},
        "spec": {
            "entrypoint": command_of(plan.found, "python", f"{FOLDER}/{SPEC_FILE}"),
            "submissionMode": "K8sJobMode",
            "runtimeEnvYAML": write(runtime_env),
            # each retry is a new cluster, and the sweep continues where the last one left it
            "backoffLimit": args.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": args.keep_seconds,
            **deadline,
            "rayClusterSpec": _cluster(plan, args),
        },
    }


def _cluster(plan: Plan, args: SimpleNamespace) -> dict[str, Any]:
    from sweeper.deploy.plan import HEAD_CPUS, HEAD_MEMORY

    machines = plan.machines
    secret = {"secretName": args.token_secret} if args.token_secret else {}
    worker: dict[str, Any] = {"cpu": str(machines.cpus), "memory": _quantity(machines.memory)}
    if machines.gpus:
        worker["nvidia.com/gpu"] = str(machines.gpus)
    # the first autoscaler starts no nodes for labels
    grows = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}
    return {
        "rayVersion": plan.ray,
        "authOptions": {"mode": "token", **secret},
        **(grows if machines.most > machines.nodes else {}),
        "headGroupSpec": {
            # the driver runs there, and no trials
            "rayStartParams": {"num-cpus": "0"},
            "template": _pod(plan, args, "ray-head", {"cpu": str(HEAD_CPUS), "memory": _quantity(HEAD_MEMORY)}),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": machines.nodes,
                "minReplicas": machines.nodes,
                "maxReplicas": machines.most,
                # of Ray; in rayStartParams KubeRay refuses them
                **({"labels": dict(plan.labels)} if plan.labels else {}),
                "rayStartParams": {},
                "template": _pod(plan, args, "ray-worker", worker),
            }
        ],
    }


def _pod(plan: Plan, args: SimpleNamespace, name: str, has: dict[str, str]) -> dict[str, Any]:
    mounts = [{"name": "sweep", "mountPath": FOLDER, "readOnly": True}, {"name": "shm", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [
        {"name": "sweep", "configMap": {"name": plan.name}},
        # Ray's object store, and what processes of one trial exchange
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(plan.machines.shm)}},
    ]
    if args.volume_claim:
        mounts.append({"name": "shared", "mountPath": SHARED})
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": args.volume_claim}})
    container: dict[str, Any] = {
        "name": name,
        "image": plan.image,
        "resources": {"limits": has, "requests": has},
        "volumeMounts": mounts,
    }
    if args.secret:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in args.secret]
    return {"spec": {"containers": [container], "volumes": volumes}}


def _quantity(amount: int) -> str:
    return f"{amount // 2**20}Mi" if amount % 2**30 else f"{amount // 2**30}Gi"
