"""The command line as a user meets it: output, messages, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from sweeper.cli.main import main
from sweeper.storage.tables import read, read_trials
from trainables.noise import NOISE

RUN = ["run", "synthetic", "--runner", "inline", "--trials", "30", "--objective", "gain_mean", "--seed", "1"]
SPACE_FILE = """
import torch
from optuna.distributions import FloatDistribution
from torch import nn

from search_spaces import Space
from trainables.datasets import DATASETS, Data
from trainables.models import MODELS


@MODELS.register("linear_probe_of_test_cli")
def linear_probe(classes, channels, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 4, width), nn.ReLU(), nn.Linear(width, classes))


@DATASETS.register("quadrants_of_test_cli")
def quadrants(root, *, n=64):
    g = torch.Generator().manual_seed(0)
    x = {s: torch.randn(n, 1, 2, 2, generator=g) for s in ("train", "val", "test")}
    return Data(x=x, y={s: (v[:, 0, 0, 0] > 0).long() for s, v in x.items()}, classes=2)


SPACE = Space(
    doc="two quadrants",
    fixed={"dataset": "quadrants_of_test_cli", "model": "linear_probe_of_test_cli", "batch_size": 8, "epochs": 2},
    knobs={"learning_rate": FloatDistribution(0.01, 1.0, log=True)},
)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main([*RUN, "--sampler", "qmc", "--out", str(folder)]) == 0
    return folder


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run a command that must fail by exit code 2 and one line; return the line."""
    code = main(list(argv))
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_is_fast_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time; t = time.perf_counter()\n"
        "from sweeper.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'ray', 'optuna', 'pyarrow', 'plotly', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("run", "resume", "best", "recommend", "pair", "spaces", "noises", "merges", "export", "dashboard"):
        assert f"\n  {command} " in done.stdout


def test_the_list_of_trials_loads_neither_models_nor_http(finished: Path) -> None:
    code = (
        "import sys\n"
        "from sweeper.cli.main import main\n"
        f"assert main(['list', {str(finished)!r}]) == 0\n"
        "heavy = {'torch', 'ray', 'optuna', 'pandas', 'plotly', 'requests', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "digest" in done.stdout


def test_run_prints_the_result_and_its_folder(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "--sampler", "qmc", "--out", str(finished)]) == 0  # finished: says it again
    out = capsys.readouterr().out
    for text in ("synthetic closed form", "loss gain", "merged loss", "batch size", "sure?", "next:", "dashboard.html"):
        assert text in out
    assert len(out.splitlines()) <= 12
    assert (finished / "dashboard.html").stat().st_size > 1_000_000


def test_best_as_json_names_both_optima(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", str(finished), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    for name in ("gain_mean", "merged_loss"):
        regime = record["regimes"][name]
        assert regime["low"] <= regime["optimum"] <= regime["high"]
        assert 0 <= regime["edge_share"] <= 1
    assert record["synthetic"] is True
    rows = [r for r in read_trials(finished).to_pylist() if r["outcome"] == "ok"]
    luckiest = max(rows, key=lambda r: r["gain_mean_loss_val"])
    # the posterior mean decides: its winner is good, and not always the luckiest draw
    assert record["best"]["config_mean"] >= luckiest["gain_mean_loss_val"] - 0.02


def test_recommend_reaches_the_optimum(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["recommend", str(finished), "--batch-size", "256", "--momentum", "0.9", "--weight-decay", "1e-4"]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noise_matched"] == {}  # whole settings stand alone
    assert main([*args, "--json", "--by-noise"]) == 0
    record = json.loads(capsys.readouterr().out)
    (settings,) = record["settings"]
    assert set(settings["params"]) == {
        "learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength",
    }  # fmt: skip
    assert settings["fixed"] == ["batch_size", "momentum", "weight_decay"]
    assert settings["outside_tried"] == ["batch_size"]
    assert set(record["noise_matched"]) == {"gain_mean", "merged_loss"}
    for found in record["noise_matched"].values():
        advice = found["recommendations"][0]
        assert advice["batch_size"] == 256
        assert "batch_size" in advice["outside_tried"]
        settings = {k: advice[k] for k in ("learning_rate", "batch_size", "momentum")}
        assert NOISE["paper"].predict(settings) == pytest.approx(advice["noise"])
        assert advice["learning_rate_low"] <= advice["learning_rate"] <= advice["learning_rate_high"]


def test_recommend_refuses_what_cannot_be(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "momentum must lie in [0, 1), got 1.5" in fails(capsys, "recommend", str(finished), "--momentum", "1.5")
    assert "batch_size" in fails(capsys, "recommend", str(finished), "--batch-size", "0")
    assert "did you mean gain_mean" in fails(capsys, "recommend", str(finished), "--objective", "gain_men")
    both = fails(capsys, "recommend", str(finished), "--by-noise", "--format", "yaml")
    assert "--by-noise prints a table: leave it out, or --format yaml" in both


def test_list_and_status(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(finished), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["items"]
    assert [r["number"] for r in rows] == list(range(30))
    assert main(["list", str(finished)]) == 0
    assert rows[3]["digest"] in capsys.readouterr().out
    assert main(["status", str(finished), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    progress = status["progress"]
    assert (progress["done"], progress["budget"], status["running"], progress["failed"]) == (30, 30, False, 0)


def test_export_holds_the_same_table(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(finished), "--format", "parquet", "--out", str(tmp_path / "t.parquet")]) == 0
    assert pq.read_table(tmp_path / "t.parquet").equals(read_trials(finished))
    assert main(["export", str(finished), "--out", str(tmp_path / "m.csv"), "--table", "merges"]) == 0
    assert pyarrow.csv.read_csv(tmp_path / "m.csv").num_rows == read(finished, "merges").num_rows > 300
    capsys.readouterr()
    assert "cannot write" in fails(capsys, "export", str(finished), "--out", str(tmp_path / "no" / "t.csv"))
    page = str(tmp_path / "page.html")
    assert f"got {page}: use --html {page}" in fails(capsys, "export", str(finished), "--out", page)
    table = str(tmp_path / "u.parquet")
    assert f"--out {table} holds csv: add --format parquet" in fails(capsys, "export", str(finished), "--out", table)
    assert fails(capsys, "export", str(finished), "--html", str(tmp_path)).count("cannot write") == 1


def test_pair_reruns_a_trial_and_the_numbers_agree(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = read_trials(finished)["digest"].to_pylist()[7]
    assert main(["pair", str(finished), digest[:9], "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["digest"] == digest
    assert record["agrees"] is True
    assert record["largest_difference"] == 0
    assert "0 trials have a digest" in fails(capsys, "pair", str(finished), "zzz")
    assert "30 trials have a digest" in fails(capsys, "pair", str(finished), "")


@pytest.mark.parametrize("what", ["spaces", "noises", "merges"])
def test_names_are_listed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    import search_spaces
    from trainables.merging.methods import BY_SCORE, MERGES

    names = {
        "spaces": search_spaces.names(),
        "noises": list(NOISE),
        "merges": [*MERGES, *BY_SCORE],
    }[what]
    assert main([what, "--json"]) == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)["items"]] == names
    assert main([what]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names)


def test_all_knobs_of_a_space_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spaces", "text_lora"]) == 0
    out = capsys.readouterr().out
    assert "beta2 0.9 to 0.999" in out
    assert "digits_cnn" not in out
    assert "unknown space 'text_lor'; did you mean text_lora" in fails(capsys, "spaces", "text_lor")
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "space: synthetic\nrunner: inline\nsampler: random\ntrials: 2\nfixed: {optimizer: adamw, momentum: 0}\n"
        "noise: adam_sde\nparameters: {beta2: {min: 0.9, max: 0.99}, optimizer_options.eps: {min: 1e-9, max: 1e-6}}\n"
    )
    assert main(["run", str(spec), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["list", str(tmp_path / "run"), "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["items"]:
        assert 0.9 <= row["beta2"] <= 0.99
        assert 1e-9 <= row["optimizer_options.eps"] <= 1e-6
    assert main(["list", str(tmp_path / "run")]) == 0
    assert "optimizer_options.eps" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert "unknown space 'digitscnn'; did you mean digits_cnn" in fails(capsys, "run", "digitscnn")
    assert "unknown command 'rn'; did you mean run" in fails(capsys, "rn")
    assert "workers: must be >= 1 or auto, got 0" in fails(capsys, "run", "synthetic", "--workers", "0", "--out", out)
    assert "unknown sampler 'nois'" in fails(capsys, "run", "synthetic", "--sampler", "nois", "--out", out)
    assert "unknown option '--frob'" in fails(capsys, "run", "synthetic", "--frob")
    assert "no folder" in fails(capsys, "best", str(tmp_path / "nothing"))
    assert "holds no sweep" in fails(capsys, "status", str(tmp_path))
    assert "cannot read" in fails(capsys, "run", str(tmp_path / "no.yaml"))
    assert "cannot read the space file" in fails(capsys, "run", str(tmp_path / "no.py"))
    for argv in (["status"], ["run"], ["export", "x", "--html"], ["run", "synthetic", "--out"]):
        shown = fails(capsys, *argv, "x" * 300)
        assert "x" * 80 not in shown or "..." in shown
        assert len(shown) < 500
    missing = fails(capsys, "run", "fashion_cnn", "--data", str(tmp_path), "--out", out)
    assert "lacks train-images-idx3-ubyte" in missing
    assert "--data ROOT" in missing
    assert "needs a data root" in fails(capsys, "run", "fashion_cnn", "--out", out)
    assert not Path(out).exists()


def test_every_choice_is_checked_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "spec.yaml", tmp_path / "run"
    for text, message in (
        (
            "parameters: {batch_size: {values: [16, 8192, 32]}}",
            "batch_size must be <= the 720 training examples, got 8192",
        ),
        ("parameters: {augmentation: {values: [shift, shft]}}", "unknown augmentation 'shft'; did you mean shift?"),
        ("fixed: {base: {batch_size: 4000}}", "base batch_size must be <= the 720 training examples, got 4000"),
        ("device: cudda", "device must be auto, cpu, cuda"),
    ):
        path.write_text(f"space: digits_cnn\nrunner: inline\n{text}\n")
        assert message in fails(capsys, "run", str(path), "--out", str(out))
    assert not out.exists()


def test_no_write_permission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to" in fails(capsys, *RUN, "--out", str(tmp_path / "file" / "run"))
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "Permission denied" in fails(capsys, *RUN, "--out", str(tmp_path / "closed" / "run"))


def test_an_unreachable_address_fails_at_once_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["run", "synthetic", "--out", str(tmp_path / "run"), "--address"]
    assert "cannot connect to Ray at 127.0.0.1:1" in fails(capsys, *args, "127.0.0.1:1")
    assert "Ray client" in fails(capsys, *args, "ray://127.0.0.1:10001")
    assert "HOST:PORT" in fails(capsys, *args, "nonsense")
    assert not (tmp_path / "run").exists()


def test_corrupt_parts_are_named_once_and_the_rest_is_read(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = finished / "trials" / "torn.parquet"
    torn.write_bytes(b"not parquet")
    try:
        assert main(["list", str(finished), "--json"]) == 0
        captured = capsys.readouterr()
    finally:
        torn.unlink()
    assert len(json.loads(captured.out)["items"]) == 30
    assert captured.err.count("torn.parquet") == 1
    assert captured.err.startswith("warning: ")


def test_an_unfinished_folder_wants_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main([*RUN, *out, "--sampler", "random", "--trials", "2"]) == 0
    capsys.readouterr()
    assert main([*RUN, *out, "--sampler", "random", "--trials", "4"]) == 2
    assert "holds a part of this sweep; `sweeper resume" in capsys.readouterr().err
    assert main([*RUN, *out, "--sampler", "random", "--trials", "4", "--yes"]) == 0
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run"), "--trials", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 6


def test_no_successful_trial_is_exit_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "space: synthetic\nrunner: inline\nsampler: random\ntrials: 3\n"
        "parameters: {learning_rate: {min: 50, max: 60}}\n"
    )
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 3
    assert "3 diverged" in capsys.readouterr().out


def test_a_users_own_model_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SPACE_FILE)
    run = tmp_path / "run"
    args = ["run", str(file), "--runner", "inline", "--sampler", "random", "--trials", "4", "--out", str(run)]
    assert main(args) == 0
    rows = read_trials(run).to_pylist()
    assert {(r["space"], r["model"], r["dataset"]) for r in rows} == {
        ("mine", "linear_probe_of_test_cli", "quadrants_of_test_cli")
    }
    # the folder stands alone, and a trial reruns from its row
    file.unlink()
    assert main(["run", str(run / "sweep.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert sorted(r["digest"] for r in read_trials(tmp_path / "again").to_pylist()) == sorted(r["digest"] for r in rows)
    capsys.readouterr()
    assert main(["pair", str(run), rows[0]["digest"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agrees"] is True


def test_a_users_model_that_does_not_fit_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "unfit.py", tmp_path / "run"
    text = (
        "from torch import nn\nfrom optuna.distributions import FloatDistribution\nfrom search_spaces import Space\n"
        "from trainables.models import MODELS\n"
        "MODELS.add('unfit', lambda classes, channels: nn.Sequential(nn.Flatten(), nn.Linear({size}, {out})))\n"
        "SPACE = Space(doc='d', fixed={{'dataset': 'digits', 'model': 'unfit', 'batch_size': 8}},\n"
        "              knobs={{'learning_rate': FloatDistribution(0.1, 1.0)}})\n"
    )
    file.write_text(text.format(size=63, out=10))
    assert "shapes cannot be multiplied" in fails(capsys, "run", str(file), "--out", str(out))
    file.write_text(text.format(size=64, out=9))
    assert "must map images of shape (1, 8, 8) to 10 logits each, got shape (2, 9)" in fails(
        capsys, "run", str(file), "--out", str(out)
    )
    assert not out.exists()


def test_a_users_broken_file_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import sys\nsys.exit(3)\n")
    assert "broken.py, line 2: SystemExit: 3" in fails(capsys, "run", str(file))
    file.write_text("x = 1\ny = x / 0\n")
    assert "broken.py, line 2: ZeroDivisionError" in fails(capsys, "run", str(file))
    file.write_text("SPACE = 3\n")
    assert "must define SPACE" in fails(capsys, "run", str(file))


@pytest.mark.ray  # trains, and the fast tier is to stay fast
def test_saved_weights_are_those_that_were_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from safetensors.torch import load_file

    from trainables.pair.setup import prepare
    from trainables.runtime import Runtime
    from trainables.spec import PairSpec
    from trainables.tasks.evaluation import score_splits

    spec, run = tmp_path / "spec.yaml", tmp_path / "run"
    spec.write_text(
        "space: digits_cnn\nrunner: inline\nsampler: random\ntrials: 5\nfixed: {epochs: 1, accuracy_floor: 0.0}\n"
        "parameters: {batch_size: {values: [32]}}\n"
    )
    assert main(["run", str(spec), "--out", str(run)]) == 0
    rows = sorted(read_trials(run).to_pylist(), key=lambda r: r["merged_loss_val"])
    # small models keep the weights of every configuration, since the model chooses the winner at the end
    assert {p.stem for p in (run / "weights").iterdir()} == {r["digest"] for r in rows}
    saved: dict[str, Any] = {}
    for remade in (False, True):
        if remade:
            (run / "weights" / f"{rows[0]['digest']}.safetensors").unlink()
        target = tmp_path / f"best-{remade}.safetensors"
        assert main(["best", str(run), "--save", str(target)]) == 0
        saved[str(remade)] = load_file(target)
        assert f"trial `{rows[0]['digest']}`" in target.with_suffix(".md").read_text()
        with safe_open(target, "pt") as file:
            assert file.metadata()["digest"] == rows[0]["digest"]
    assert all(torch.equal(saved["False"][k], saved["True"][k]) for k in saved["False"])
    pair_spec = PairSpec.from_json(rows[0]["spec"])
    (task,) = prepare(pair_spec, Runtime(), with_base=False).tasks
    scores, _ = score_splits(task.model, saved["True"], task.data)
    assert scores["test"].loss == pytest.approx(rows[0]["chosen_loss_test"], rel=1e-6)
    assert "saved:" in capsys.readouterr().out


def test_python_m_sweeper() -> None:
    done = subprocess.run([sys.executable, "-m", "sweeper", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sweeper 0.")
