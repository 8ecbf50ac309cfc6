"""Files for clusters: what they hold is valid, complete and free of secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from sweeper.cli import main
from sweeper.spec import SweepSpec

OUT = "s3://bucket/runs/a"
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$"}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}


def only(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
CONTAINER = only(
    ["name", "image", "resources", "volumeMounts"],
    name=NAME,
    image={"type": "string"},
    resources=only(["limits", "requests"], limits=AMOUNTS, requests=AMOUNTS),
    volumeMounts={"type": "array", "items": only(["name", "mountPath"], name=NAME, mountPath={"type": "string"})},
    envFrom={"type": "array", "items": only(["secretRef"], secretRef=only(["name"], name=NAME))},
)
POD = only(
    ["spec"],
    spec=only(
        ["containers", "volumes"],
        containers={"type": "array", "items": CONTAINER, "minItems": 1},
        volumes={"type": "array", "items": {"type": "object", "required": ["name"]}},
    ),
)
PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
# the fields of KubeRay's ray.io/v1 RayJob that are used, with the types of its API reference (v1.6)
RAYJOB = only(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=only(["name"], name=NAME),
    spec=only(
        ["entrypoint", "rayClusterSpec", "submissionMode"],
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypoint={"type": "string"},
        runtimeEnvYAML={"type": "string"},
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        activeDeadlineSeconds=COUNT,
        rayClusterSpec=only(
            ["headGroupSpec", "rayVersion"],
            rayVersion={"type": "string"},
            authOptions=only(["mode"], mode={"enum": ["disabled", "token"]}, secretName=NAME),
            headGroupSpec=only(["template"], rayStartParams=PARAMS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": only(
                    ["groupName", "template"],
                    groupName=NAME,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=PARAMS,
                    template=POD,
                ),
            },
        ),
    ),
)


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["manifest", *args]) == 0
    return capsys.readouterr().out


def test_a_rayjob_is_valid_and_holds_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(
        capsys, "digits_cnn", "--kuberay", "--out", OUT, "--trials", "7", "--gpus-per-worker", "2",
        "--resources", "gpus_per_member=1", "--secret", "storage", "--token-secret", "token",
    )  # fmt: skip
    config, job = yaml.safe_load_all(text)
    jsonschema.validate(job, RAYJOB)
    spec = job["spec"]
    assert f"--out {OUT}" in spec["entrypoint"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "token"}
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert worker["envFrom"] == [{"secretRef": {"name": "storage"}}]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert {"name": "sweep", "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    carried = SweepSpec.checked(yaml.safe_load(config["data"]["sweep.yaml"]))
    assert (carried.trials, carried.resources.gpus_per_member) == (7, 1)


@pytest.mark.parametrize("gpus", ["0", "1"])
def test_a_cluster_for_ray_up_fits_rays_own_schema(capsys: pytest.CaptureFixture[str], gpus: str) -> None:
    text = printed(capsys, "digits_cnn", "--ray-up", "--out", OUT, "--gpus-per-worker", gpus, "--cluster-workers", "3")
    cluster = yaml.safe_load(text)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    assert cluster["available_node_types"]["worker"]["max_workers"] == 3
    assert ("--gpus all" in cluster["docker"]["run_options"]) == (gpus == "1")
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


@pytest.mark.parametrize("kind", ["--kuberay", "--ray-up"])
def test_an_own_space_file_travels_and_no_secret_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-that-nobody-may-see")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key-that-nobody-may-see")
    file = tmp_path / "mine.py"
    file.write_text("from search_spaces.synthetic import SPACE  # mine\n")
    text = printed(capsys, str(file), kind, "--out", OUT, "--sampler", "random")
    assert "that-nobody-may-see" not in text
    assert str(tmp_path) not in text
    assert "from search_spaces.synthetic import SPACE  # mine" in text
    assert "space: mine.py" in text


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--kuberay", "--out", "runs/a"], "--out must be a URI (s3://...) or an absolute path on storage that all"),
        (
            ["--ray-up", "--out", "/shared/a"],
            "--out must be a URI such as s3://... with --ray-up: its nodes",
        ),
        (["--kuberay", "--out", OUT, "--cluster-workers", "0"], "--cluster-workers must be >= 1, got 0"),
        (["--kuberay", "--out", OUT, "--memory-per-worker", "much"], "--memory-per-worker must be an amount of memory"),
        (["--kuberay", "--out", OUT, "--resources", "gpus_per_member=1"], "the cluster can never place that"),
        (["--kuberay", "--out", OUT, "--resources", "gpus_per_pear=1"], "gpus_per_pear"),
    ],
)
def test_what_cannot_be_is_refused(args: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", "digits_cnn", *args]) == 2
    assert why in capsys.readouterr().err


def test_the_image_copies_what_is_there_and_holds_no_secret() -> None:
    root = Path(__file__).parents[3]
    lines = (root / "Dockerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert len(copied) >= 7
    assert all((root / name).exists() for name in copied)
    ignored = (root / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert set(copied) <= kept
    assert [line for line in lines if line.startswith("USER")] == ["USER ray"]
