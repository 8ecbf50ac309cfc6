"""A sweep as a file for Ray's cluster launcher, `ray up`: on AWS, Google Cloud, or machines that are there."""

from __future__ import annotations

import base64
import shlex
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sweeper.errors import SpecError
from sweeper.storage.location import is_uri
from sweeper.storage.run_folder import SPEC_FILE

if TYPE_CHECKING:
    from sweeper.deploy.plan import Plan

FOLDER = "~/sweep"
TOKEN = "~/.ray/auth_token"
IDLE_MINUTES = 10
DISK_GB = 200
HEAD_OF = {"aws": "m5.xlarge", "gcp": "n2-standard-4"}
WORKER_OF = {("aws", False): "m5.2xlarge", ("aws", True): "g5.2xlarge",
             ("gcp", False): "n2-standard-8", ("gcp", True): "g2-standard-8"}  # fmt: skip
CLIENT_OF = {"aws": ["pip install boto3"], "gcp": ["pip install google-api-python-client cryptography"], "local": []}
"""With which the head starts nodes."""
REGION_OF = {"aws": "us-west-2", "gcp": "us-west1"}
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
IMAGE_OF = "projects/deeplearning-platform-release/global/images/family/"


def text(plan: Plan, args: SimpleNamespace) -> str:
    """Return the manifest: the cluster, and on its head the sweep.

    Raises:
        SpecError: The provider lacks what it needs, or the nodes could not reach the run folder.
    """
    from sweeper.deploy.plan import document

    if args.provider != "local" and not is_uri(plan.found.out):
        raise SpecError(f"machines of a cloud share no folder {plan.found.out}: give --out as a URI (s3://BUCKET/PATH)")
    for wrong in ("token_secret", "secret", "volume_claim"):
        if getattr(args, wrong):
            raise SpecError(f"--{wrong.replace('_', '-')} is Kubernetes': use --kuberay")
    run = (
        f"sweeper submit {FOLDER}/{SPEC_FILE} --out {shlex.quote(plan.found.out)} --address http://127.0.0.1:8265"
        + "".join(f" --env {shlex.quote(f'{k}={v}')}" for k, v in plan.variables.items())
    )
    comments = [
        "ray get-auth-token --generate            makes the token that all nodes share, where there is none yet",
        "ray up THIS_FILE                         starts the cluster",
        f"ray exec THIS_FILE {shlex.quote(run)}",
        "                                         starts the sweep, and continues it; --follow shows its progress",
        "ray dashboard THIS_FILE                  Ray's dashboard, here",
        "ray down THIS_FILE                       ends the cluster; finished trials are kept",
    ]
    return document(comments, _cluster(plan, args))


def _cluster(plan: Plan, args: SimpleNamespace) -> dict[str, Any]:
    # the token stays on for whoever reaches the head; its dashboard listens on the head itself only
    start = "ulimit -n 65536; RAY_AUTH_MODE=token ray start"
    head = "--num-cpus=0"  # the driver runs there, and no trials
    if plan.machines.given:
        head = ""
        if plan.labels:  # nodes that are started get theirs from the launcher
            start += " --labels=" + shlex.quote(",".join(f"{k}={v}" for k, v in plan.labels.items()))
    return {
        "cluster_name": plan.name,
        "max_workers": plan.machines.most,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": _provider(plan, args),
        "auth": {"ssh_user": args.ssh_user},
        "docker": {
            "image": plan.image,
            "container_name": "sweeper",
            "pull_before_run": "/" in plan.image,
            "run_options": [f"--shm-size={plan.machines.shm // 2**20}m", "--ulimit nofile=65536:65536"],
        },
        **_nodes(plan, args),
        "file_mounts": {TOKEN: TOKEN},
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [*CLIENT_OF[args.provider], *_written(plan)],
        "worker_setup_commands": [],
        "head_start_ray_commands": [
            "ray stop",
            f"{start} --head --port=6379 --dashboard-host=127.0.0.1 "
            f"--autoscaling-config=~/ray_bootstrap_config.yaml {head}".rstrip(),
        ],
        "worker_start_ray_commands": ["ray stop", f"{start} --address=$RAY_HEAD_IP:6379"],
    }


def _written(plan: Plan) -> list[str]:
    # base64: these commands pass through several shells
    commands = [f"mkdir -p {FOLDER}"]
    for name, data in sorted(plan.found.files.items()):
        commands.append(f"echo {base64.b64encode(data).decode()} | base64 -d > {FOLDER}/{shlex.quote(name)}")
    return commands


def _provider(plan: Plan, args: SimpleNamespace) -> dict[str, Any]:
    if args.provider == "local":
        if args.node_role:
            raise SpecError("--node-role is of machines that are started: leave it out with --provider local")
        if not args.head_ip:
            raise SpecError("--provider local needs --head-ip, and --worker-ips where there are more machines")
        return {"type": "local", "head_ip": args.head_ip, "worker_ips": list(args.worker_ips or ())}
    region = args.region or REGION_OF[args.provider]
    if args.provider == "aws":
        return {"type": "aws", "region": region, "cache_stopped_nodes": False}
    if not args.project:
        raise SpecError("--provider gcp needs --project, the project's id")
    return {
        "type": "gcp", "region": region, "availability_zone": args.zone or f"{region}-a", "project_id": args.project,
    }  # fmt: skip


def _nodes(plan: Plan, args: SimpleNamespace) -> dict[str, Any]:
    if plan.machines.given:
        return {}
    machines = plan.machines
    kind = args.instance or WORKER_OF[args.provider, machines.gpus > 0]
    has = {"CPU": machines.cpus, **({"GPU": machines.gpus} if machines.gpus else {})}
    return {
        "available_node_types": {
            "head": {
                "resources": {"CPU": 0},
                "min_workers": 0,
                "max_workers": 0,
                "node_config": _machine(args, HEAD_OF[args.provider], False),
            },
            "worker": {
                "resources": has,
                **({"labels": dict(plan.labels)} if plan.labels else {}),
                "min_workers": machines.nodes,
                "max_workers": machines.most,
                "node_config": _machine(args, kind, machines.gpus > 0),
            },
        },
        "head_node_type": "head",
    }


def _machine(args: SimpleNamespace, kind: str, gpu: bool) -> dict[str, Any]:
    if args.provider == "aws":
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": DISK_GB, "VolumeType": "gp3"}}
        role = {"IamInstanceProfile": {"Name": args.node_role}} if args.node_role else {}
        return {"InstanceType": kind, "BlockDeviceMappings": [disk], **role}
    image = IMAGE_OF + ("common-cu128-ubuntu-2204-nvidia-570" if gpu else "common-cpu")
    start = {"diskSizeGb": DISK_GB, "sourceImage": image}
    found: dict[str, Any] = {
        "machineType": kind,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": start}],
    }
    if args.node_role:
        found["serviceAccounts"] = [{"email": args.node_role, "scopes": [SCOPE]}]
    if gpu:
        found["scheduling"] = [{"onHostMaintenance": "TERMINATE"}]
        found["metadata"] = {"items": [{"key": "install-nvidia-driver", "value": "True"}]}
    return found
