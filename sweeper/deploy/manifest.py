"""Manifests: one YAML file with a sweep and a new cluster for it, for KubeRay or for Ray's launcher `ray up`.

The templates have the usual values. Users edit the printed file where they need others.
"""

from __future__ import annotations

import base64
import math
import re
import shlex
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sweeper.config.prepared import PreparedSweep
from sweeper.config.yaml_text import Writer
from sweeper.deploy.bundle import Bundle, bundle_sweep, job_name
from sweeper.deploy.command import STOP_VARIABLES, sweep_command
from sweeper.errors import SpecError
from sweeper.runner.ray_tune.placement import Node, capacity, check_fits, layout
from sweeper.storage.location import is_uri
from sweeper.storage.run_folder import SPEC_FILE
from trainables.io.printable import printable_line

MOST_CONFIG_BYTES = 1_000_000
_SHARED = "/shared"
"""Folder at which pods mount the volume claim."""
_NAME, _NAMESPACE = re.compile("[a-z]([a-z0-9-]{0,45}[a-z0-9])?"), re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Names in Kubernetes; KubeRay makes longer names, of at most 63 characters, from that of a RayJob."""


@dataclass(frozen=True)
class Cluster:
    """Names and sizes of a new cluster.

    Attributes:
        name: Name of the cluster and its job; empty for a name that follows from the sweep.
        image: Container image with this package.
        workers: Number of nodes beside the head.
        cpus: CPUs per node.
        gpus: GPUs per node; None for as many as a trial needs.
        memory: Memory per node [bytes].
        namespace: Kubernetes namespace; empty for that of `kubectl`.
        secrets: Kubernetes secrets whose keys become variables of all pods.
        volume_claim: Claim of the volume that pods mount at `/shared`.
        node_role: Instance profile with which the nodes of `ray up` reach the storage.
    """

    name: str
    image: str
    workers: int
    cpus: int
    gpus: int | None
    memory: int
    namespace: str = ""
    secrets: tuple[str, ...] = field(default=())
    volume_claim: str = ""
    node_role: str = ""


def render_kuberay(sweep: PreparedSweep, cluster: Cluster) -> str:
    """Return a ConfigMap with the sweep, and a RayJob that starts a cluster and runs the sweep on it.

    Raises:
        SpecError: The cluster cannot run the sweep, or the sweep does not fit in a ConfigMap.
    """
    bundle, values = _prepare(sweep, cluster)
    if not is_uri(bundle.out) and not (cluster.volume_claim and bundle.out.startswith(f"{_SHARED}/")):
        raise SpecError(
            f"pods do not share the folder {bundle.out}: give --out as a URI (s3://BUCKET/PATH), or as a folder below "
            f"{_SHARED} with --volume-claim NAME"
        )
    if cluster.node_role:
        raise SpecError("--node-role works with --ray-up only; for Kubernetes use --secret")
    if sum(len(content) for content in bundle.files.values()) > MOST_CONFIG_BYTES:
        raise SpecError(
            f"the sweep's files must fit in a ConfigMap ({MOST_CONFIG_BYTES / 1e6:g} MB); build them into --image"
        )
    if wrong := [name for name in bundle.files if not re.fullmatch(r"[-._a-zA-Z0-9]+", name)]:
        raise SpecError(f"file names in a ConfigMap consist of letters, digits, `.`, `-` and `_`, got {wrong[0]!r}")
    resources = {"cpu": str(cluster.cpus), "memory": _quantity(cluster.memory)}
    return _render(
        "kuberay.yaml.j2",
        **values,
        namespace=cluster.namespace and _check_name("--namespace", cluster.namespace, _NAMESPACE, "at most 63"),
        secrets=cluster.secrets,
        volume_claim=cluster.volume_claim,
        files={name: content.decode() for name, content in sorted(bundle.files.items())},
        command=sweep_command(bundle, "python", f"/sweep/{SPEC_FILE}"),
        stop_variables=STOP_VARIABLES,
        ray_version=version("ray"),
        worker_resources=resources | ({"nvidia.com/gpu": str(values["gpus"])} if values["gpus"] else {}),
    )


def render_ray_up(sweep: PreparedSweep, cluster: Cluster) -> str:
    """Return a cluster file for `ray up` on AWS; its head holds the sweep.

    Raises:
        SpecError: The cluster cannot run the sweep, or its nodes cannot reach the run folder.
    """
    bundle, values = _prepare(sweep, cluster)
    if not is_uri(bundle.out):
        raise SpecError(f"the nodes do not share the folder {bundle.out}: give --out as a URI (s3://BUCKET/PATH)")
    for name in ("namespace", "secrets", "volume_claim"):
        if getattr(cluster, name):
            raise SpecError(f"--{name.removesuffix('s').replace('_', '-')} works with --kuberay only")
    submit = f"sweeper submit ~/sweep/{SPEC_FILE} --out {shlex.quote(bundle.out)} --address http://127.0.0.1:8265"
    return _render(
        "ray_up.yaml.j2",
        **values,
        node_role=cluster.node_role,
        start=shlex.quote(submit),
        ray_resources={"CPU": cluster.cpus} | ({"GPU": values["gpus"]} if values["gpus"] else {}),
        # base64, because several shells read these lines
        write_files=[
            f"echo {base64.b64encode(content).decode()} | base64 -d > ~/sweep/{shlex.quote(name)}"
            for name, content in sorted(bundle.files.items())
        ],
    )


def _prepare(sweep: PreparedSweep, cluster: Cluster) -> tuple[Bundle, dict[str, Any]]:
    """Return the bundle of the sweep, and the values that both templates share."""
    spec, resources = sweep.spec, sweep.spec.resources
    needed = spec.device.startswith("cuda") or resources.gpus_per_member or resources.gpus_per_pair or 0
    gpus = math.ceil(needed) if cluster.gpus is None else cluster.gpus
    # `!a` and `in(a,b)` are Ray's selectors for sets of labels
    labels = {k: v for k, v in resources.labels.items() if not v.startswith(("!", "in("))}
    bundle = bundle_sweep(_fit(sweep, cluster, gpus, labels))
    name = _check_name("--name", cluster.name or job_name(spec, bundle), _NAME, "a letter and at most 46")
    values = {"name": name, "image": cluster.image, "workers": cluster.workers, "gpus": gpus, "labels": labels}
    return bundle, values


def _fit(sweep: PreparedSweep, cluster: Cluster, gpus: int, labels: dict[str, str]) -> PreparedSweep:
    """Return the sweep with workers for all nodes; the sweep starts when only the head exists.

    Raises:
        SpecError: The nodes can never hold a trial.
    """
    spec = sweep.spec
    if spec.device.startswith("cuda") and not gpus:
        raise SpecError(f"device {spec.device!r} needs a GPU, but --gpus-per-worker is 0")
    resources = spec.resources
    on_gpus = spec.device.startswith("cuda") or (spec.device == "auto" and gpus > 0)
    if on_gpus and resources.gpus_per_pair is None and resources.ranks is None:
        resources = resources.model_copy(update={"gpus_per_pair": 1.0})
    available = {"CPU": float(cluster.cpus), "GPU": float(gpus), "memory": float(cluster.memory)}
    nodes = [Node(available, labels)] * cluster.workers
    trial = layout(resources, spec.threads, 0, sweep.members)
    check_fits(nodes, trial)
    workers = spec.workers if isinstance(spec.workers, int) else capacity(nodes, trial)
    resources = resources.model_copy(update={"autoscaling": True})
    return sweep.with_spec(workers=workers, resources=resources)


def _check_name(flag: str, text: str, pattern: re.Pattern[str], rule: str) -> str:
    if not pattern.fullmatch(text):
        raise SpecError(f"{flag} must be {rule} lowercase letters, digits or hyphens, got {text!r}")
    return text


def _quantity(amount: int) -> str:
    return f"{amount // 2**20}Mi" if amount % 2**30 else f"{amount // 2**30}Gi"


# -- templates --------------------------------------------------------------------------------------------------------


class _OneLine(Writer):
    """Writes each value on one line."""


def _represent_text(writer: _OneLine, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, '"' if "\n" in text or not text.isprintable() else "")


class _Blocks(Writer):
    """Writes text of several lines as a block."""

    blocks = True


_OneLine.add_representer(str, _represent_text)


def _dump(value: Any, writer: type[Writer], flow: bool | None) -> str:
    return yaml.dump(value, Dumper=writer, default_flow_style=flow, width=math.inf, allow_unicode=True)


def _write_value(value: Any) -> str:
    """Return a value as YAML on one line, so that no value of a template can add keys or documents."""
    if isinstance(value, Markup):
        return value
    # in a list, text with the meaning of a list or mapping is quoted
    return _dump([value], _OneLine, True)[1:-2]


def _write_block(text: str, indent: int) -> Markup:
    """Return text as a YAML block below a key that is indented by `indent`."""
    block = _dump({"": text}, _Blocks, False).partition(": ")[2].rstrip("\n")
    return Markup(re.sub(r"(?m)^(?!\A)(?=.)", " " * indent, block))


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=_write_value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"block": _write_block, "comment": lambda text: Markup(printable_line(text))}
    return environment.get_template(template).render(values)
