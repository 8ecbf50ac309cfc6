"""`sweeper merge`: a user's own checkpoints, read, merged, scored and shown."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from sweeper.cli.main import main
from sweeper.cli.schemas.registry import json_schema
from sweeper.storage.tables import read, read_trials
from tests.support.model_folders import load, lora, tiny_llama
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Model folders: a base, two children near it, and a model of another width."""
    root = tmp_path_factory.mktemp("folders")
    base = tiny_llama(root / "base", 0)
    made = {n: tiny_llama(root / n, i, near=base) for i, n in enumerate("ab", 1)}
    others = {"wide": tiny_llama(root / "wide", 3, vocab_size=65), "file": base / "model.safetensors"}
    return {k: str(v) for k, v in {**made, "base": base, **others}.items()}


def test_model_folders_are_merged_without_data(
    folders: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--models", folders["a"], folders["b"]]
    saved = str(tmp_path / "m")
    args = [*pair, "--base", folders["base"], "--merges", "task_arithmetic", "--coefficient", "0.5", "--save", saved]
    assert merge(*args, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    jsonschema.validate(record, json_schema("merge-folders"))
    assert (record["merge"], record["coefficient"], record["saved"]) == ("task_arithmetic", 0.5, saved)
    a, b, merged = (load_file(Path(p) / "model.safetensors") for p in (folders["a"], folders["b"], saved))
    for key, value in merged.items():
        torch.testing.assert_close(value, (a[key] + b[key]) / 2)
    assert merge(*pair, "--coefficient", "1", "--save", str(tmp_path / "n")) == 0
    assert "merge:   parent B (no merge)" in capsys.readouterr().out
    assert merge(*pair, "--merges", "uniform_soup", "--save", str(tmp_path / "o")) == 0
    assert merge("--models", *pair[1:], folders["base"], "--save", str(tmp_path / "p")) == 0  # all have weight 1/3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a", "b"], "a merge of model folders needs --save FOLDER"),
        (["a", "--save", "x"], "--models must be at least two folders, got"),
        (["a", "b", "--save", "x"], "merge 'linear' needs --coefficient ALPHA, the weight of the second child"),
        (["a", "b", "--save", "x", "--merges", "linear", "slerp"], "a merge without data needs one of --merges, got l"),
        (["a", "b", "--save", "x", "--merges", "fisher"], "merge 'fisher' needs data, so it cannot stream; choose f"),
        (["a", "b", "--save", "x", "--merges", "greedy_soup"], "merge 'greedy_soup' needs data, so it cannot stream"),
        (["a", "b", "--save", "x", "--merges", "slurp"], "unknown merge 'slurp'; did you mean slerp"),
        (["a", "b", "--save", "x", "--merges", "ties", "--coefficient", "1"], "needs the base of the task vectors; gi"),
        (["a", "b", "--save", "x", "--merges", "model_stock"], "merge 'model_stock' needs the base of the task vector"),
        (["a", "b", "--save", "x", "--merges", "fisher_adam"], "merge 'fisher_adam' needs the optimizer's moments, so"),
        (["a", "file", "--save", "x"], "--models must all be files or all model folders; "),
        (["a", "org/b", "--save", "x"], "--models: there is no file or folder org/b; give the path of a model on this"),
        (["a", "b", "--base", "org/c", "--save", "x"], "--base: there is no file or folder org/c; give the path of a"),
        (["a", "b", "--save", "x", "--out", "y"], "--out is for merges that are scored: give --space or --model"),
        (["a", "wide", "--save", "x", "--coefficient", "1"], "models to merge must have one vocabulary size, got 64"),
        (["a", "b", "--base", "wide", "--save", "x", "--coefficient", "1"], "must have one vocabulary size, got 64"),
        (["a", "b", "--save", "a", "--coefficient", "1"], "exists; choose another folder"),
        (
            ["a", "b", "a", "--save", "x", "--coefficient", "1"],
            "--coefficient must be 1/3 in merge 'linear' of 3 models",
        ),
        (
            ["a", "b", "--save", "x", "--coefficient", "7"],
            "--coefficient must lie in [0, 1] in merge 'linear', where it",
        ),
        (["a", "b", "--save", "x", "--merges", "slerp", "--coefficient", "-1"], "must lie in [0, 1] in merge 'slerp'"),
        (
            ["a", "b", "--save", "x", "--merges", "uniform_soup", "--coefficient", "7"],
            "must be 1 in merge 'uniform_soup'",
        ),
    ],
)
def test_a_merge_of_folders_that_cannot_run_says_why(
    folders: dict[str, str], capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert merge("--models", *(folders.get(word, word) for word in argv)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("x").exists()


@pytest.fixture(scope="module")
def adapters(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Adapters of unequal ranks of the base of `folders`, one of another base, and these folders."""
    root, base = tmp_path_factory.mktemp("adapters"), Path(folders["base"])
    made = {n: str(lora(root / n, base, r, r=r)) for n, r in (("la", 4), ("lb", 3))}
    return folders | made | {"other": str(lora(root / "other", Path(folders["wide"]), 1))}


def test_adapters_become_a_model_or_an_adapter(
    adapters: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--models", adapters["la"], adapters["lb"], "--base", adapters["base"], "--coefficient", "0.5"]
    assert merge(*pair, "--save", str(tmp_path / "whole"), "--json") == 0
    record = json.loads(capsys.readouterr().out)
    jsonschema.validate(record, json_schema("merge-folders"))
    assert (record["rank"], record["discarded"]) == (None, None)
    assert merge(*pair, "--save", str(tmp_path / "small"), "--rank", "8", "--json") == 0
    assert json.loads(capsys.readouterr().out)["discarded"] < 1e-12
    tokens = torch.arange(9)[None]
    whole = load(tmp_path / "whole")(tokens).logits
    small = PeftModel.from_pretrained(load(Path(adapters["base"])), tmp_path / "small")(tokens).logits
    torch.testing.assert_close(small, whole, atol=1e-5, rtol=1e-5)
    assert merge(*pair, "--save", str(tmp_path / "tiny"), "--rank", "1") == 0
    assert "adapter: rank 1; " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["la", "lb", "--save", "x", "--coefficient", "1"],
            "adapters need --base FOLDER, the model that they ",
        ),
        (["la", "a", "--save", "x", "--coefficient", "1"], "--models must all be models or all adapters; "),
        (
            ["a", "b", "--save", "x", "--coefficient", "1", "--rank", "2"],
            "--rank is for adapters; leave it out for",
        ),
        (["la", "lb", "--base", "wide", "--save", "x", "--coefficient", "1", "--rank", "0"], "whole number >= 1"),
        (["la", "other", "--base", "base", "--save", "x", "--coefficient", "1"], "adapters to merge must have one bas"),
        (["la", "lb", "--base", "wide", "--save", "x", "--coefficient", "1"], "--base must be the model that the adap"),
        (["la", "lb", "--base", "lb", "--save", "x", "--coefficient", "1"], "--base must be a whole model, got the ad"),
        (["la", "lb", "--base", "org/c", "--save", "x", "--coefficient", "1"], "there is no file or folder org/c; g"),
        (
            ["la", "lb", "--base", "base", "--save", "x", "--coefficient", "1", "--rank", "99"],
            "rank must be at most 32",
        ),
    ],
)
def test_a_merge_of_adapters_that_cannot_run_says_why(
    adapters: dict[str, str], capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert merge("--models", *(adapters.get(word, word) for word in argv)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_model_folders_are_scored_on_data(
    adapters: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_llama(tmp_path / "base", 0, vocab_size=256, shard="20KB")
    pair = [str(tiny_llama(tmp_path / name, seed, near=base)) for seed, name in enumerate("ab", 1)]
    data = ["--data-set", "sentences", "--set", "dataset_options={context: 16, train: 32, val: 16, test: 16}"]
    task = ["--model", f"hf:{base}", *data, "--merges", "linear", "task_arithmetic"]
    args = ["--models", *pair, "--base", str(base), *task, "--out", str(tmp_path / "run"), "--json"]
    assert merge(*args) == 0
    record = json.loads(capsys.readouterr().out)
    assert {m["merge"] for m in record["merges"]} == {"linear", "task_arithmetic"}
    assert record["scores"]["merged_loss_test"] == pytest.approx(5.5, abs=0.3)
    for models, model, options, message in (
        ([adapters["la"], adapters["lb"]], base, "", "la is an adapter, which has no scores of its own; merge ada"),
        ([pair[0], adapters["wide"]], base, "", "must have one vocabulary size, got 256 in "),
        ([adapters["a"], adapters["b"]], base, "", "must have one vocabulary size, got 256 in "),
        ([adapters["a"], adapters["b"]], adapters["base"], "", "a vocabulary of 64 tokens, the tokenizer 'bytes' has"),
        (pair, "owner/name", "", "set --download for a hub name"),
        (pair, base, "context: 64", "has a context of 32 tokens, got 64; lower dataset_options.context"),
        (pair, base, "number: 1", "split train of the text has "),
    ):  # fmt: skip
        own = ["--model", f"hf:{model}", "--data-set", "sentences", "--set", f"dataset_options={{{options}}}"]
        assert merge("--models", *models, *own, "--out", str(tmp_path / "other")) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "other").exists()
