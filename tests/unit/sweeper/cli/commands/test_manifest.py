"""Manifests: what their schemas accept, what they carry, and what never stands in them."""

import base64
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sweeper.cli.main import main
from sweeper.config.load import load_spec
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
LOCAL = ("--provider", "local", "--head-ip", "10.0.0.1", "--cpus-per-worker", "4")


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
        ("--cluster-workers", "4", "--max-cluster-workers", "9", "--gpus-per-worker", "8", "--shm", "500MB"),
        ("--token-secret", "mine", "--secret", "store", "--secret", "more", "--env", "OMP_NUM_THREADS=1"),
        ("--deadline", "3600", "--retries", "0", "--keep-seconds", "0", "--name", "a", "--image", "here:5000/s:2"),
        ("--volume-claim", "disk", "--shm", "512Mi", "--resources", "labels={example.com/zone: a, kind: '!slow'}"),
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


def test_a_rayjob_says_what_was_asked_for(own: str, printed: Any) -> None:
    args = ("--cluster-workers", "4", "--gpus-per-worker", "2", "--memory-per-worker", "64Gi", "--token-secret", "mine")
    text = printed(own, *KUBERAY, *args, "--secret", "store", "--volume-claim", "disk", "--deadline", "60")
    _, job = yaml.safe_load_all(text)
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "mine"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (4, 4, 4)
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert {m["mountPath"] for m in container["volumeMounts"]} == {"/sweep", "/dev/shm", "/shared"}
    # no trials on the head
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert job["spec"]["activeDeadlineSeconds"] == 60
    assert "&id" not in text


def test_the_sweep_in_a_rayjob_is_the_sweep(own: str, printed: Any, tmp_path: Path) -> None:
    config, job = yaml.safe_load_all(printed(own, *KUBERAY, "--trials", "9", "--seed", "4"))
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name, text in config["data"].items():
        (folder / name).write_text(text)
    assert (folder / "mine.py").read_text() == SPACE_FILE
    arrived, asked = load_spec(str(folder / "sweep.yaml")), load_spec(own, {"trials": 9, "seed": 4})
    assert {**arrived.identity(), "space": ""} == {**asked.identity(), "space": ""}
    assert arrived.trials == 9
    assert job["spec"]["entrypoint"] == "python -m sweeper run /sweep/sweep.yaml --out s3://bucket/runs/a --yes"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--max-cluster-workers", "9", "--gpus-per-worker", "1", "--region", "eu-west-1", "--instance", "g6.xlarge"),
        ("--provider", "gcp", "--project", "p-1"),
        ("--provider", "gcp", "--project", "p-1", "--zone", "us-west1-b", "--gpus-per-worker", "1"),
        (*LOCAL, "--worker-ips", "10.0.0.2", "10.0.0.3", "--resources", "labels={zone: a}"),
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
        (("--cluster-workers", "3", "--max-cluster-workers", "5", "--cpus-per-worker", "4"), 20, {}),
        (("--workers", "3", "--max-cluster-workers", "5"), 3, {}),
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


def test_an_autoscaled_rayjob_has_the_autoscaler_that_knows_labels(own: str, printed: Any) -> None:
    more = ("--max-cluster-workers", "5", "--resources", "labels={zone: a, kind: '!slow'}")
    *_, job = yaml.safe_load_all(printed(own, *KUBERAY, *more))
    cluster = job["spec"]["rayClusterSpec"]
    assert (cluster["enableInTreeAutoscaling"], cluster["autoscalerOptions"]) == (True, {"version": "v2"})
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["labels"], workers["rayStartParams"]) == ({"zone": "a"}, {})
    workers["rayStartParams"] = {"labels": "zone=a"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAYJOB)


@pytest.mark.parametrize(
    ("more", "role"),
    [
        ((), {"IamInstanceProfile": {"Name": "sweep"}}),
        (
            ("--provider", "gcp", "--project", "p-1"),
            {
                "serviceAccounts": [
                    {"email": "sweep", "scopes": ["https://www.googleapis.com/auth/cloud-platform"]},
                ]
            },
        ),
    ],
)
def test_all_nodes_have_the_role_that_reaches_the_store(
    own: str, printed: Any, more: tuple[str, ...], role: dict[str, Any]
) -> None:
    kinds = yaml.safe_load(printed(own, *RAY_UP, *more, "--node-role", "sweep"))["available_node_types"]
    assert all(role.items() <= kinds[kind]["node_config"].items() for kind in ("head", "worker"))


def test_machines_that_are_there_all_run_trials(own: str, printed: Any) -> None:
    text = printed(own, *RAY_UP, *LOCAL, "--worker-ips", "a", "b", "c", "--resources", "labels={zone: a}")
    # the head is one of them, and none is started
    found, cluster = sweep_of(text), yaml.safe_load(text)
    assert (found["workers"], found["resources"]) == (16, {"labels": {"zone": "a"}})
    assert (cluster["max_workers"], cluster["provider"]["worker_ips"]) == (3, ["a", "b", "c"])
    starts = [cluster[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker")]
    assert all(" --labels=zone=a " in start for start in starts)
    assert "--num-cpus" not in starts[0]
    assert sweep_of(printed(own, *RAY_UP, *LOCAL))["workers"] == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--kuberay",), "--out must be a URI"),
        (("--kuberay", "--out", "/data/run"), "pods share no folder /data/run"),
        (("--kuberay", "--out", "/data/run", "--volume-claim", "disk"), "below /shared with --volume-claim"),
        ((*KUBERAY, "--env", "AWS_SECRET_ACCESS_KEY=x"), "AWS_SECRET_ACCESS_KEY may be a secret"),
        ((*KUBERAY, "--name", "Upper"), "--name must be of at most 47 small letters"),
        ((*KUBERAY, "--memory-per-worker", "much"), "--memory-per-worker must be an amount of memory"),
        (
            (*KUBERAY, "--cluster-workers", "3", "--max-cluster-workers", "2"),
            "--max-cluster-workers must be at least --cluster-workers = 3, got 2",
        ),
        ((*KUBERAY, "--device", "cuda", "--gpus-per-worker", "0"), "asks for a GPU and --gpus-per-worker is 0"),
        ((*KUBERAY, "--threads", "16"), "a trial takes 16 CPU, 0 GPU, and the cluster can never place that"),
        (
            (*KUBERAY, "--resources", "custom={disk: 1}"),
            "a trial takes 1 CPU, 0 GPU, 1 disk, and the cluster can never",
        ),
        ((*RAY_UP, "--token-secret", "mine"), "--token-secret is Kubernetes'"),
        ((*RAY_UP, "--provider", "gcp"), "--provider gcp needs --project"),
        ((*RAY_UP, "--provider", "local", "--cpus-per-worker", "2"), "needs --head-ip, and --worker-ips where there"),
        ((*RAY_UP, "--provider", "local", "--head-ip", "a"), "needs --cpus-per-worker, the CPUs of each"),
        ((*RAY_UP, *LOCAL, "--node-role", "a"), "--node-role is of machines that are started"),
        ((*RAY_UP, *LOCAL, "--cluster-workers", "2"), "has the machines of --worker-ips: leave out --[max-]cluster-"),
        (("--ray-up", "--out", "/data/run"), "machines of a cloud share no folder /data/run"),
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
