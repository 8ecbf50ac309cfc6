"""Manifests: what their schemas accept, what they carry, and what never stands in them."""

import base64
import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sweeper.cli.main import main
from sweeper.config.load import load_sweep
from sweeper.config.prepared import prepare
from sweeper.config.spec import SweepSpec
from sweeper.deploy.bundle import bundle_sweep
from sweeper.deploy.manifest import Cluster, render_kuberay, render_ray_up
from tests.support.rayjob_schema import CONFIG_MAP, RAYJOB

TOKEN = "a-token-that-nobody-may-see"
SPACE_FILE = """
from optuna.distributions import FloatDistribution
from search_spaces import load

SPACE = load("synthetic").override({"learning_rate": FloatDistribution(0.01, 1.0, log=True)}, {}, doc="it's mine")
"""


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TOKEN)


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A sweep of a user's own space, as a file."""
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    (tmp_path / "asked.yaml").write_text("space: mine.py\ntrials: 7\n")
    return str(tmp_path / "asked.yaml")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return what `sweeper manifest ARGS` prints."""

    def run(*args: str) -> str:
        assert main(["manifest", *args]) == 0
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        assert err == ""
        return out

    return run


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["manifest", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


KUBERAY = ("--kuberay", "--out", "s3://bucket/runs/a")
RAY_UP = ("--ray-up", "--out", "s3://bucket/runs/a")


def sweep_of(text: str) -> dict[str, Any]:
    """Return the sweep's file in a manifest of either kind."""
    first = next(iter(yaml.safe_load_all(text)))
    if "data" in first:
        return yaml.safe_load(first["data"]["sweep.yaml"])
    (command,) = [c for c in first["head_setup_commands"] if c.endswith("/sweep.yaml")]
    return yaml.safe_load(base64.b64decode(command.split()[1]))


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--cluster-workers", "4", "--gpus-per-worker", "8", "--memory-per-worker", "500MB"),
        ("--secret", "store", "--secret", "more", "--name", "a", "--namespace", "2-b", "--image", "here:5000/s:2"),
        ("--volume-claim", "disk", "--resources", "labels={example.com/zone: a, kind: '!slow'}"),
    ],
)  # fmt: skip
def test_a_rayjob_fits_its_schema(own: str, printed: Any, more: tuple[str, ...]) -> None:
    config, job = yaml.safe_load_all(printed(own, *KUBERAY, *more))
    jsonschema.validate(config, CONFIG_MAP)
    jsonschema.validate(job, RAYJOB)
    assert job["metadata"] == config["metadata"]
    spec = job["spec"]
    assert spec["rayClusterSpec"]["authOptions"]["mode"] == "token"
    assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"]) == ("K8sJobMode", True)
    # a stopped driver finishes what it writes
    environment = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert environment["RAY_JOB_STOP_SIGNAL"] == "SIGINT"


def test_a_rayjob_has_the_values_of_the_options(own: str, printed: Any) -> None:
    args = ("--cluster-workers", "4", "--gpus-per-worker", "2", "--memory-per-worker", "64Gi", "--namespace", "team")
    text = printed(own, *KUBERAY, *args, "--secret", "store", "--volume-claim", "disk", "--image", "here/sweeper:2")
    _, job = yaml.safe_load_all(text)
    cluster = job["spec"]["rayClusterSpec"]
    assert job["metadata"]["namespace"] == "team"
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (4, 4, 4)
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container["image"] == "here/sweeper:2"
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/sweep", "/dev/shm", "/shared"}
    # no trials on the head
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_the_sweep_in_a_rayjob_is_the_sweep(own: str, printed: Any, tmp_path: Path) -> None:
    config, job = yaml.safe_load_all(printed(own, *KUBERAY, "--trials", "9", "--seed", "4"))
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name, text in config["data"].items():
        (folder / name).write_text(text)
    assert (folder / "mine.py").read_text() == SPACE_FILE
    arrived, asked = load_sweep(str(folder / "sweep.yaml")).spec, load_sweep(own, {"trials": 9, "seed": 4}).spec
    assert {**arrived.identity(), "space": ""} == {**asked.identity(), "space": ""}
    assert arrived.trials == 9
    assert job["spec"]["entrypoint"] == "python -m sweeper run /sweep/sweep.yaml --out s3://bucket/runs/a --yes"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--cluster-workers", "9", "--gpus-per-worker", "1", "--node-role", "sweep"),
        ("--image", "here:5000/s:2", "--resources", "labels={zone: a}"),
    ],
)  # fmt: skip
def test_a_cluster_file_fits_rays_schema(own: str, printed: Any, more: tuple[str, ...]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = printed(own, *RAY_UP, *more)
    found = yaml.safe_load(text)
    ready = prepare_config(found)  # as `ray up` does first
    validate_config(ready)
    # what is asked for is there, and no default of Ray's is run beside it
    assert ready["setup_commands"] == [] == ready["worker_setup_commands"]
    assert all("RAY_AUTH_MODE=token" in ready[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker"))
    assert "--dashboard-host=127.0.0.1" in ready["head_start_ray_commands"][1]
    assert found["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert re.search(r"^# ray exec THIS_FILE 'sweeper submit ~/sweep/sweep.yaml --out s3://bucket/runs/a ", text, re.M)


def test_the_sweep_in_a_cluster_file_is_the_sweep(own: str, printed: Any) -> None:
    commands = yaml.safe_load(printed(own, *RAY_UP))["head_setup_commands"]
    written = {m[2]: base64.b64decode(m[1]).decode() for c in commands
               if (m := re.fullmatch(r"echo (\S+) \| base64 -d > ~/sweep/(\S+)", c))}  # fmt: skip
    assert written["mine.py"] == SPACE_FILE
    arrived = yaml.safe_load(written["sweep.yaml"])
    assert {k: arrived[k] for k in ("space", "trials")} == {"space": "mine.py", "trials": 7}


@pytest.mark.parametrize("kind", [KUBERAY, RAY_UP])
@pytest.mark.parametrize(
    ("more", "workers", "resources"),
    [
        ((), 16, {}),
        (("--cluster-workers", "5", "--cpus-per-worker", "4"), 20, {}),
        (("--workers", "3", "--cluster-workers", "5"), 3, {}),
        # the head that runs the driver has no GPU to tell of
        (("--gpus-per-worker", "2"), 4, {"gpus_per_pair": 1.0}),
        (("--gpus-per-worker", "2", "--resources", "gpus_per_pair=0.5"), 8, {"gpus_per_pair": 0.5}),
        (("--gpus-per-worker", "2", "--resources", "gpus_per_member=2"), 1, {"gpus_per_member": 2}),
        (("--gpus-per-worker", "2", "--device", "cpu"), 16, {}),
    ],
)
def test_a_sweep_waits_for_its_nodes_and_uses_all(
    own: str, printed: Any, kind: tuple[str, ...], more: tuple[str, ...], workers: int, resources: dict[str, Any]
) -> None:
    found = sweep_of(printed(own, *kind, *more))
    assert (found["workers"], found["resources"]) == (workers, {**resources, "autoscaling": True})


def test_worker_nodes_have_the_labels_that_the_sweep_selects(own: str, printed: Any) -> None:
    more = ("--resources", "labels={zone: a, kind: '!slow'}")
    *_, job = yaml.safe_load_all(printed(own, *KUBERAY, *more))
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["labels"], workers["rayStartParams"]) == ({"zone": "a"}, {})
    workers["rayStartParams"] = {"labels": "zone=a"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAYJOB)
    assert yaml.safe_load(printed(own, *RAY_UP, *more))["available_node_types"]["worker"]["labels"] == {"zone": "a"}


def test_all_nodes_have_the_role_that_reaches_the_store(own: str, printed: Any) -> None:
    kinds = yaml.safe_load(printed(own, *RAY_UP, "--node-role", "sweep"))["available_node_types"]
    roles = [kinds[kind]["node_config"]["IamInstanceProfile"] for kind in ("head", "worker")]
    assert roles == [{"Name": "sweep"}] * 2


EVIL = [
    "a\nkind: Pod",
    "a: b",
    "a # b",
    "'a' \"b\" \\n",
    "{{ 7 * 7 }}{% raw %}",
    "- a",
    "[a, b]",
    "{a: b}",
    "&a *a !!int 1",
    "---",
    "1",
    "yes",
    "~",
    "",
    " a ",
    "a\u2028kind: Pod",
    "a\x85kind: Pod",
    "a\tb",
    "ключ 🗝",
    "@`%|>",
    "}} x",
    "a,b",
]


@pytest.mark.parametrize("text", EVIL)
def test_no_value_changes_the_structure_of_a_manifest(text: str) -> None:
    spec = SweepSpec.checked({"space": "synthetic", "out": "s3://bucket/run", "resources": {"labels": {"zone": "a"}}})
    sweep = prepare(spec)
    cluster = Cluster(name="a", image="I", workers=2, cpus=8, gpus=1, memory=2**35)
    asked = dataclasses.replace(cluster, image=text, secrets=(text, "b"), volume_claim=text)
    config, job = yaml.safe_load_all(render_kuberay(sweep, asked))
    assert job["metadata"] == config["metadata"] == {"name": "a"}
    for group in (ray := job["spec"]["rayClusterSpec"])["headGroupSpec"], ray["workerGroupSpecs"][0]:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == text
        assert container["envFrom"] == [{"secretRef": {"name": name}} for name in (text, "b")]
        if text:
            assert pod["volumes"][-1] == {"name": "shared", "persistentVolumeClaim": {"claimName": text}}
    found = yaml.safe_load(render_ray_up(sweep, dataclasses.replace(cluster, image=text, node_role=text)))
    plain = yaml.safe_load(render_ray_up(sweep, dataclasses.replace(cluster, node_role="R" if text else "")))
    assert found["docker"]["image"] == text
    for kind in found["available_node_types"].values():
        if text:
            assert kind["node_config"].pop("IamInstanceProfile") == {"Name": text}
    for kind in plain["available_node_types"].values():
        kind["node_config"].pop("IamInstanceProfile", None)
    assert {**found, "docker": 0} == {**plain, "docker": 0}


@pytest.mark.parametrize("text", EVIL)
def test_the_run_folder_and_files_arrive_as_they_are(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"{SPACE_FILE}# {text}\n\n\t{text}\n  \n"
    (tmp_path / "mine.py").write_bytes(SPACE_FILE.encode())
    sweep = prepare(SweepSpec.checked({"space": str(tmp_path / "mine.py"), "out": "/shared/run", "trials": 3}))
    bundle = dataclasses.replace(bundle_sweep(sweep), out=f"/shared/{text}")
    bundle = dataclasses.replace(bundle, files={**bundle.files, "mine.py": source.encode()})
    monkeypatch.setattr("sweeper.deploy.manifest.bundle_sweep", lambda sweep: bundle)
    cluster = Cluster(name="a", image="I", workers=2, cpus=8, gpus=0, memory=2**35, volume_claim="disk")
    config, job = yaml.safe_load_all(render_kuberay(sweep, cluster))
    assert config["data"] == {name: content.decode() for name, content in bundle.files.items()}
    out = f"/shared/{text}"
    assert shlex.split(job["spec"]["entrypoint"])[5:] == ["--out", out, "--yes"]
    monkeypatch.setattr("sweeper.deploy.manifest.is_uri", lambda out: True)
    lines = render_ray_up(sweep, dataclasses.replace(cluster, volume_claim="")).splitlines()
    assert all(line.startswith("# ") for line in lines[: lines.index("cluster_name: a")])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--kuberay",), "--out must be a URI"),
        (("--kuberay", "--out", "/data/run"), "pods do not share the folder /data/run"),
        (("--kuberay", "--out", "/data/run", "--volume-claim", "disk"), "below /shared with --volume-claim NAME"),
        ((*KUBERAY, "--name", "Upper"), "--name must be a letter and at most 46 lowercase letters, digits or hyphens"),
        ((*KUBERAY, "--namespace", "a.b"), "--namespace must be at most 63 lowercase letters, digits"),
        ((*KUBERAY, "--memory-per-worker", "much"), "--memory-per-worker must be an amount of memory"),
        ((*KUBERAY, "--device", "cuda", "--gpus-per-worker", "0"), "needs a GPU, but --gpus-per-worker is 0"),
        ((*KUBERAY, "--threads", "16"), "a trial needs 16 CPU, 0 GPU, which the cluster can never place"),
        (
            (*KUBERAY, "--resources", "custom={disk: 1}"),
            "a trial needs 1 CPU, 0 GPU, 1 disk, which the cluster can never",
        ),
        ((*RAY_UP, "--secret", "mine"), "--secret works with --kuberay only"),
        ((*RAY_UP, "--volume-claim", "mine"), "--volume-claim works with --kuberay only"),
        ((*RAY_UP, "--namespace", "mine"), "--namespace works with --kuberay only"),
        ((*KUBERAY, "--node-role", "mine"), "--node-role works with --ray-up only"),
        (("--ray-up", "--out", "/data/run"), "the nodes do not share the folder /data/run"),
    ],
)
def test_what_cannot_work_is_refused(
    own: str, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], message: str
) -> None:
    assert message in refused(capsys, own, *args)


def test_one_kind_must_be_chosen(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kinds in ([], ["--kuberay", "--ray-up"]):
        assert main(["manifest", own, *kinds]) == 2
        assert "--kuberay" in capsys.readouterr().err
