"""`sweeper merge`: a user's own checkpoints, read, merged, scored and shown."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sweeper.cli.main import main
from sweeper.storage.tables import read, read_trials
from trainables.models.registry import build

TASK = ["--data-set", "digits", "--model", "small_cnn"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, three children near it, in both formats, and a model of another architecture."""
    folder = tmp_path_factory.mktemp("models")
    base = {k: v.detach() for k, v in build("small_cnn", 10, 1, 8, {}).state_dict().items()}
    for i, name in enumerate(("base", "a", "b", "c")):
        draws = torch.Generator().manual_seed(i)
        moved = {k: v + 0.01 * i * torch.randn(v.shape, generator=draws) for k, v in base.items()}
        save_file(moved, folder / f"{name}.safetensors")
        torch.save(moved, folder / f"{name}.pt")
    save_file({"weight": torch.zeros(3)}, folder / "other.safetensors")
    torch.save({k: v.to(torch.int8) for k, v in base.items()}, folder / "int8.pt")
    torch.save(base | {"features.0.bias": base["features.0.bias"] / 0}, folder / "nan.pt")
    (folder / "pointer.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    (folder / "cut.pt").write_bytes((folder / "a.pt").read_bytes()[:5000])
    (folder / "folder").mkdir()
    return {p.name: str(p) for p in folder.iterdir()}


def merge(*argv: str) -> int:
    return main(["merge", *argv])


def test_a_pair_is_merged_scored_and_written(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "run", tmp_path / "soup.safetensors"
    models = [files["a.safetensors"], files["b.pt"]]
    args = ["--models", *models, "--merges", "linear", "uniform_soup", *TASK, "--out", str(out), "--save", str(saved)]
    assert merge(*args, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    rows = read(out, "merges").to_pylist()
    curve = {r["coefficient"]: r for r in rows if r["method"] == "linear"}
    assert sorted(curve) == pytest.approx([i / 10 for i in range(11)])
    best = min(curve.values(), key=lambda r: r["loss_val"])
    shown = {m["merge"]: m for m in record["merges"]}
    assert shown["linear"]["coefficient"] == best["coefficient"]
    assert shown["linear"]["loss_test"] == best["loss_test"]
    scores = record["scores"]
    parents = (curve[0.0]["loss_test"] + curve[1.0]["loss_test"]) / 2
    assert scores["gain_mean_loss_test"] == pytest.approx(parents - curve[0.5]["loss_test"])
    assert scores["barrier_frankle_loss_test"] == pytest.approx(max(r["loss_test"] for r in curve.values()) - parents)
    (trial,) = read_trials(out).to_pylist()
    assert trial["noise_paper"] is None  # nothing is known about how they were trained
    assert trial["chosen_merge"] == record["chosen"]["merge"]
    assert set(load_file(saved)) == set(load_file(files["base.safetensors"]))
    page = Path(record["page"]).read_text()
    assert '"x":[0.0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0]' in page
    assert "Test loss along the merges" in page
    assert "Best noise" not in page
    assert "best noise not determined" not in page


def test_models_of_several_tasks_keep_their_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = {k: v.detach() for k, v in build("mlp", 10, 1, 8, {"widths": [8]}).state_dict().items()}
    for i, name in enumerate(("base", "a", "b", "c")):
        draws = torch.Generator().manual_seed(i)
        save_file({k: v + 0.01 * i * torch.randn(v.shape, generator=draws) for k, v in base.items()}, tmp_path / name)
    models = ["--models", *(str(tmp_path / n) for n in "abc"), "--model", "mlp", "--set", "model_options={widths: [8]}"]
    kinds = ["--set", "pair_kind=tasks", "--set", "datasets=[digits, {name: digits, options: {split_seed: 1}}, "
             "{name: digits, options: {split_seed: 2}}]"]  # fmt: skip
    args = ["--base", str(tmp_path / "base"), "--out", str(tmp_path / "run"), "--save", str(tmp_path / "saved")]
    assert merge(*models, *kinds, *args, "--landscape") == 0
    out = capsys.readouterr().out
    assert "3 models mlp on digits + digits + digits; losses in nat" in out
    for text in ("model C ", "taskwise arithmetic at", "normalised accuracy, test", "barrier between two tasks, mean"):
        assert text in out
    assert "slerp" not in out
    (row,) = read_trials(tmp_path / "run").to_pylist()
    assert row["hessian_trace_merged"] is not None
    saved = load_file(tmp_path / "saved")
    assert torch.equal(saved["c/head.weight"], load_file(tmp_path / "c")["head.weight"])
    two = [*models[:3], *models[4:], *kinds, *args[:2], "--out", str(tmp_path / "two")]
    assert merge(*two) == 2
    assert "models must be one per task, 3 in their order, got 2" in capsys.readouterr().err


def test_three_models_and_a_base_get_every_merge(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainables.merging.methods import BY_SCORE, MERGES

    models = [files[f"{n}.safetensors"] for n in "abc"]
    args = ["--models", *models, "--base", files["base.pt"], "--space", "digits_cnn", "--out", str(tmp_path / "run")]
    assert merge(*args, "--set", "learning_rate=0.1", "--set", "momentum=0") == 0
    out = capsys.readouterr().out
    methods = set(read(tmp_path / "run", "merges")["method"].to_pylist())
    # weights alone do not tell Adam's moments, and models of one base have one order of units
    assert methods == {*MERGES, *BY_SCORE} - {"fisher_adam", "weight_matching", "weight_matching_repair"}
    for text in ("model C: ", "task arithmetic at", "ties at", "slerp at", "uniform soup", "barrier (Frankle), test"):
        assert text in out
    (trial,) = read_trials(tmp_path / "run").to_pylist()
    assert trial["noise_paper"] == pytest.approx(0.1 / 64)  # told how, it has its noise


def test_models_of_other_initial_weights_are_matched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        torch.manual_seed(i)
        torch.save(build("mlp", 10, 1, 8, {"widths": [8]}).state_dict(), tmp_path / f"{i}.pt")
    args = ["--models", str(tmp_path / "0.pt"), str(tmp_path / "1.pt"), "--out", str(tmp_path / "run")]
    own = ["--model", "mlp", "--data-set", "digits", "--set", "model_options={widths: [8]}"]
    assert merge(*args, *own, "--merges", "weight_matching", "weight_matching_repair") == 0
    rows = read(tmp_path / "run", "merges").to_pylist()
    found = {(r["method"], r["coefficient"]): r["loss_test"] for r in rows}
    assert len(found) == 33
    assert len({found[m, 0.5] for m in ("linear", "weight_matching", "weight_matching_repair")}) == 3
    capsys.readouterr()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--models", "a.pt", "none.pt", *TASK], "--models: there is no file or folder none.pt; give"),
        (["--models", "a.pt", "b.pt", "--base", "none.pt", *TASK], "--base: there is no file or folder none.pt; give"),
        (["--models", "a.pt", *TASK], "--models must be at least two files, got"),
        (["--models", "a.pt", "other.safetensors", *TASK], "other.safetensors does not fit model SmallCNN: "),
        (
            ["--models", "a.pt", "int8.pt", *TASK],
            "int8.pt holds weights that are not floating-point numbers: features.0.weight (int8), features.0.bias",
        ),
        (["--models", "a.pt", "b.pt", "--base", "nan.pt", *TASK], "not finite in features.0.bias; the model diverged"),
        (
            ["--models", "pointer.pt", "b.pt", *TASK],
            "pointer.pt is a Git LFS pointer, not the weights; run `git lfs pu",
        ),
        (["--models", "a.pt", "cut.pt", *TASK], "cut.pt is cut short or damaged: its zip archive has no readable end"),
        (["--models", "a.pt", "folder", *TASK], "folder', which is a folder; name a file in it"),
        (
            ["--models", "a.pt", "b.pt", "--merges", "ties", *TASK],
            "merge 'ties' needs the base θ₀: give --base FILE, or choose from linear, slerp, fisher, regmean, "
            "weight_matching, weight_matching_repair, uniform_soup",
        ),
        (
            ["--models", "a.pt", "b.pt", "--merges", "fisher_adam", *TASK],
            "merge 'fisher_adam' needs the optimizer of the training, or choose from linear, slerp, fisher",
        ),
        (["--models", "a.pt", "b.pt", "--merges", "tis", *TASK], "unknown merge 'tis'; did you mean ties"),
        (["--models", "a.pt", "b.pt"], "give either --space, or --model with --data-set"),
        (
            ["--models", "a.pt", "b.pt", "--model", "small_cnn"],
            "--model needs --data-set NAME, or --data with",
        ),
        (["--models", "a.pt", "b.pt", "--space", "digits_cn"], "unknown space 'digits_cn'; did you mean digits_cnn"),
        (["--models", "a.pt", "b.pt", "--space", "synthetic"], "space 'synthetic' trains no models"),
        (["--models", "a.pt", "b.pt", "--data-set", "digits", "--model", "smal_cnn"], "unknown model 'smal_cnn'; did"),
    ],
)
def test_bad_input_is_one_line(
    files: dict[str, str], tmp_path: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(*(files.get(a, a) for a in argv), "--out", str(tmp_path / "run")) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int8.pt", "int8.pt holds weights that are not floating-point numbers: features.0.weight (int8)"),
        ("nan.pt", "nan.pt holds numbers that are not finite in features.0.bias"),
        ("cut.pt", "cut.pt is cut short or damaged"),
    ],
)
def test_a_sweep_from_such_a_file_is_one_line(
    files: dict[str, str], tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "digits_cnn", "--trials", "1", "--runner", "inline", "--set", f"weights={files[name]}", "--yes"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


BOUNDED = """
import torch
from optuna.distributions import FloatDistribution
from torch import nn

from search_spaces import Space
from trainables.models import MODELS


class Bounded(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head, self.scale = nn.Linear(64, classes), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.head(x.flatten(1)) + torch.sigmoid(self.scale).sum()


MODELS.add("bounded_for_merges", lambda classes, channels: Bounded(classes))
SPACE = Space(
    doc="bounded",
    fixed={"dataset": "digits", "model": "bounded_for_merges", "batch_size": 16, "epochs": 1, "merges": ("linear",)},
    knobs={"learning_rate": FloatDistribution(0.05, 0.1, log=True)},
)
"""


def test_a_merge_that_is_not_finite_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(BOUNDED)
    head = torch.nn.Linear(64, 10).state_dict()
    for name, scale in (("a", 3e38), ("b", -3e38)):
        state = {f"head.{k}": v for k, v in head.items()} | {"scale": torch.full((3,), scale)}
        torch.save(state, tmp_path / f"{name}.pt")
    argv = ["--models", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--space", str(tmp_path / "own.py")]
    assert merge(*argv, "--merges", "linear", "uniform_soup", "--out", str(tmp_path / "run")) == 0
    out = capsys.readouterr().out
    assert "not_viable: the linear merge at alpha = 0.1 is not finite; merged" in out
    assert not (tmp_path / "run" / "weights").exists()


def test_a_folder_in_use_is_refused(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert merge("--models", files["a.pt"], files["b.pt"], *TASK, "--out", str(tmp_path)) == 2
    assert "is not an empty folder; choose another --out" in capsys.readouterr().err
