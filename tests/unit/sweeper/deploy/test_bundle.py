"""What travels with a sweep: all that a job needs, little else, and no secrets."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sweeper.config.load import load_sweep
from sweeper.config.prepared import prepare
from sweeper.config.spec import SweepSpec
from sweeper.deploy import bundle
from sweeper.deploy.bundle import bundle_sweep, job_name, package_files, parse_environment, zip_files
from sweeper.errors import SpecError
from sweeper.storage.run_folder import SPEC_FILE

SPACE_FILE = """
from optuna.distributions import FloatDistribution
from search_spaces import load

SPACE = load("synthetic").override({"learning_rate": FloatDistribution(0.01, 1.0, log=True)}, {}, doc="mine")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A sweep of a user's own space, as a file."""
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    file = tmp_path / "asked.yaml"
    file.write_text("space: mine.py\ntrials: 7\nobjective: [gain_mean, cost]\nsampler: qmc\nworkers: 3\n"
                    "parameters: {momentum: {values: [0.0, 0.9]}}\nresources: {cpus_per_rank: 2}\n")  # fmt: skip
    return file


def test_the_same_sweep_arrives(own: Path, tmp_path: Path) -> None:
    asked = load_sweep(str(own), {"seed": 3, "out": "s3://bucket/run", "address": "http://head:8265"}).spec
    found = bundle_sweep(prepare(asked))
    assert sorted(found.files) == ["mine.py", SPEC_FILE]
    assert found.out == "s3://bucket/run"
    there = tmp_path / "there"
    there.mkdir()
    for name, data in found.files.items():
        (there / name).write_bytes(data)
    arrived = load_sweep(str(there / SPEC_FILE)).spec
    assert {**arrived.identity(), "space": ""} == {**asked.identity(), "space": ""}
    assert (arrived.workers, arrived.resources, arrived.out, arrived.address) == (3, asked.resources, None, None)
    # defaults that follow from what was not asked for still follow
    assert "noise" not in arrived.model_fields_set
    assert str(tmp_path) not in found.spec_text


@pytest.mark.parametrize("out", [None, "runs/here"])
def test_a_folder_that_vanishes_with_the_job_is_refused(out: str | None) -> None:
    with pytest.raises(SpecError, match=r"--out must be a URI .* or the absolute path"):
        bundle_sweep(prepare(SweepSpec.checked({"space": "synthetic", "out": out})))


def test_credentials_in_a_uri_and_the_inline_runner_are_refused() -> None:
    with pytest.raises(SpecError, match="must not hold credentials") as caught:
        bundle_sweep(prepare(SweepSpec.checked({"space": "synthetic", "out": "s3://me:hush@bucket/run"})))
    assert "hush" not in str(caught.value)
    with pytest.raises(SpecError, match="runner ray, got inline"):
        bundle_sweep(prepare(SweepSpec.checked({"space": "synthetic", "out": "/shared/run", "runner": "inline"})))


def test_a_folder_travels_without_what_is_not_the_users(own: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    kept = {"data/points.csv", "tools.py"}
    left = {".git/HEAD", ".env", "venv/bin/python", "env2/pyvenv.cfg", "env2/lib/x.py", "runs/a/sweep.yaml",
            "old/sweep.yaml", "old/trials/1.parquet", "__pycache__/t.pyc", "tools.pyc", "x.egg-info/P"}  # fmt: skip
    for name in kept | left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    found = bundle_sweep(load_sweep(str(own), {"out": "/shared/run"}), str(folder))
    assert set(found.files) == kept | {"mine.py", SPEC_FILE}
    with pytest.raises(SpecError, match="--working-dir must be a folder"):
        bundle_sweep(load_sweep(str(own), {"out": "/shared/run"}), str(folder / "tools.py"))


def test_too_much_is_named(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_BYTES", 5_000)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "images.bin").write_bytes(bytes(6_000))
    with pytest.raises(SpecError, match=r"at most 0.005 MB, .*images.bin.* name it by --data"):
        bundle_sweep(load_sweep(str(own), {"out": "/shared/run"}), str(folder))


def test_the_package_is_whole_and_small_and_packed_alike() -> None:
    files = package_files()
    assert {"sweeper/__main__.py", "sweeper/runner/ray_tune/tuner.py", "trainables/pair/run.py",
            "search_spaces/synthetic.py",
            "dashboards/page/page.py"} <= set(files)  # fmt: skip
    assert not any("__pycache__" in name for name in files)
    archive = zip_files(files)
    assert len(archive) < 5_000_000
    assert archive == zip_files(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert {n: opened.read(n) for n in opened.namelist()} == files


def test_the_package_says_there_of_which_commit_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "package_version", lambda: ("0", "0123456789ab+"))
    with zipfile.ZipFile(io.BytesIO(zip_files(package_files()))) as opened:
        opened.extractall(tmp_path)
    asked = "from trainables.runtime import package_version; print(package_version()[1])"
    there = {**os.environ, "PYTHONPATH": str(tmp_path)}
    said = subprocess.check_output([sys.executable, "-c", asked], cwd=tmp_path, env=there, text=True)
    assert said == "0123456789ab+\n"


def test_a_job_is_named_after_search_and_place(own: Path) -> None:
    def name(**flags: object) -> str:
        spec = load_sweep(str(own), {"out": "/shared/run", **flags}).spec
        return job_name(spec, bundle_sweep(prepare(spec)))

    assert name() == name(trials=9, workers=1, max_seconds=5.0)
    assert name().startswith("mine-")
    assert len({name(), name(seed=1), name(out="/shared/other")}) == 3
    before = name()
    (own.parent / "mine.py").write_text(SPACE_FILE.replace("0.01", "0.02"))
    assert name() != before


def test_a_prior_of_this_machine_is_read_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sweeper.cli.main import main

    run = tmp_path / "first"
    args = ["run", "synthetic", "--runner", "inline", "--sampler", "qmc", "--trials", "24", "--out", str(run)]
    assert main(args) == 0
    found = bundle_sweep(load_sweep("synthetic", {"prior": [str(run)], "out": "/shared/run"}))
    there = tmp_path / "there.yaml"
    there.write_text(found.spec_text)
    (prior,) = load_sweep(str(there)).spec.prior
    assert not isinstance(prior, str)
    assert prior.low < prior.best < prior.high


def test_variables_are_given_or_set_here_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    assert parse_environment(["OMP_NUM_THREADS=1", "A=b=c", "HERE"]) == {
        "OMP_NUM_THREADS": "1",
        "A": "b=c",
        "HERE": "1",
    }
    for text in ("RAY_AUTH_TOKEN=hush", "AWS_SECRET_ACCESS_KEY=hush", "WANDB_API_KEY=hush", "aws_session_token hush"):
        with pytest.raises(SpecError, match="may be a secret") as caught:
            parse_environment([text])
        assert "hush" not in str(caught.value)
    for text in ("1A=b", "NOT_SET_ANYWHERE", "=x"):
        with pytest.raises(SpecError, match="--env needs NAME=VALUE"):
            parse_environment([text])
