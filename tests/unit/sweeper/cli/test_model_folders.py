"""`sweeper merge` of model folders and adapters, without data and with data."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from sweeper.cli.main import main
from sweeper.cli.schemas.registry import json_schema
from tests.support.model_folders import half_ulp, load, lora, merged_by_peft, tiny_llama


def merge(*argv: str) -> int:
    return main(["merge", *argv])


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


def test_half_precision_is_rounded_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny_llama(tmp_path / "base", 0, dtype=torch.bfloat16)
    load(base).float().save_pretrained(tmp_path / "wide")
    for seed, name in enumerate("ab", 1):
        tiny_llama(tmp_path / name, seed, near=base, dtype=torch.bfloat16)
        lora(tmp_path / f"l{name}", base, seed)
    models = [load(tmp_path / n).state_dict() for n in "ab"]
    adapted = [merged_by_peft(tmp_path / "wide", tmp_path / n) for n in ("la", "lb")]
    for pair, more, (a, b) in ((["a", "b"], [], models), (["la", "lb"], ["--base", str(base)], adapted)):
        saved = str(tmp_path / f"merged-{pair[0]}")
        argv = ["--models", *(str(tmp_path / n) for n in pair), *more, "--coefficient", "0.3", "--save", saved]
        assert merge(*argv) == 0
        for key, value in load_file(f"{saved}/model.safetensors").items():
            assert value.dtype == torch.bfloat16
            exact = 0.7 * a[key].double() + 0.3 * b[key].double()
            assert bool(((value.double() - exact).abs() <= 1.01 * half_ulp(exact)).all())
    capsys.readouterr()


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
