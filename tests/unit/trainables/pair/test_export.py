"""Merged weights of trials as folders of transformers and peft, with the loss of the trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from torch.nn.functional import cross_entropy

import search_spaces
from tests.support.model_folders import load, tiny_llama
from trainables.pair.export import Exported, export_model
from trainables.pair.run import run_pair
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec

RUNTIME = Runtime(measure=0)
PARAMS = {"learning_rate": 0.03, "batch_size": 8, "weight_decay": 0.01, "beta2": 0.99}


def loss_of(model: Any, spec: PairSpec) -> float:
    x, y = prepare(spec, RUNTIME, with_base=False).tasks[0].data.scored("val")
    with torch.no_grad():
        return float(cross_entropy(model.eval()(x[slice(0, len(x))]).logits.flatten(0, 1), y.flatten()))


def test_the_merge_loads_as_a_model_and_as_an_adapter_with_the_same_loss(tmp_path: Path) -> None:
    spec = search_spaces.load("text_lora").small().build(PARAMS)
    output = run_pair(spec, RUNTIME)
    assert output.weights is not None
    expected = output.result.scores["chosen_loss_val"]
    assert export_model(spec, RUNTIME, output.weights, tmp_path / "whole") == Exported()
    assert loss_of(load(tmp_path / "whole"), spec) == pytest.approx(expected, rel=1e-6)
    exported = export_model(spec, RUNTIME, output.weights, tmp_path / "adapter", rank=8)
    assert exported.discarded is not None
    assert exported.discarded < 1e-6  # two adapters of rank 4
    assert (exported.base, exported.own) == (str(tmp_path / "adapter" / "base"), True)
    found = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")  # by the stored path
    assert loss_of(found, spec) == pytest.approx(expected, rel=1e-5)
    model = PeftModel.from_pretrained(load(tmp_path / "adapter" / "base"), tmp_path / "adapter")
    assert loss_of(model, spec) == pytest.approx(expected, rel=1e-5)
    less = export_model(spec, RUNTIME, output.weights, tmp_path / "less", rank=1).discarded
    assert less is not None
    assert 1e-3 < less < 1
    with pytest.raises(ValueError, match="rank must be >= 1, got 0"):
        export_model(spec, RUNTIME, output.weights, tmp_path / "none", rank=0)


def test_an_adapter_names_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = tiny_llama(tmp_path / "model", 0, vocab_size=256)
    (base / "generation_config.json").write_text("{}")
    data = {"context": 8, "train": 32, "val": 8, "test": 8}
    spec = PairSpec(
        dataset="sentences", dataset_options=data, model="hf:model", adapter={"kind": "lora", "r": 2}, steps=2,
        learning_rate=0.01, batch_size=8, optimizer="adamw", base={"steps": 0}, merges=("linear",),  # type: ignore[arg-type]
    )  # fmt: skip
    output = run_pair(spec, RUNTIME)
    assert output.weights is not None
    exported = export_model(spec, RUNTIME, output.weights, tmp_path / "adapter", rank=4)
    assert (exported.base, exported.own, exported.tokenizer) == (str(base), False, False)
    assert not (tmp_path / "adapter" / "base").exists()
    assert (tmp_path / "adapter" / "generation_config.json").is_file()
    monkeypatch.chdir(tmp_path / "adapter")
    model = AutoPeftModelForCausalLM.from_pretrained(".")  # the base is found from every folder
    monkeypatch.chdir(tmp_path)
    assert loss_of(model, spec) == pytest.approx(output.result.scores["chosen_loss_val"], rel=1e-5)


def test_tasks_of_text_become_one_folder(tmp_path: Path) -> None:
    sets = [
        {"name": "sentences", "options": {"context": 8, "train": 32, "val": 8, "test": 8, "number": n}}
        for n in (400, 600)
    ]
    spec = PairSpec.from_mapping(
        {"pair_kind": "tasks", "datasets": sets, "model": "gpt", "model_options": {"layers": 1, "heads": 2, "width": 8},
         "learning_rate": 0.01, "batch_size": 8, "steps": 2, "base": {"steps": 1}, "merges": ["linear"]}
    )  # fmt: skip
    output = run_pair(spec, RUNTIME)
    assert output.weights is not None
    export_model(spec, RUNTIME, output.weights, tmp_path / "whole")
    whole = load(tmp_path / "whole").state_dict()
    assert all(torch.equal(whole[k.removeprefix("a/")], v) for k, v in output.weights.items() if k.startswith("a/"))


def test_what_has_no_folder_is_refused(tmp_path: Path) -> None:
    images = PairSpec(dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=8, base={"steps": 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model 'small_cnn' is no language model of transformers, so it has no folder"):
        export_model(images, RUNTIME, {}, tmp_path / "x")
    whole = search_spaces.load("shakespeare_gpt").small().build(PARAMS)
    with pytest.raises(ValueError, match="rank is for trials whose children train adapters; leave it out"):
        export_model(whole, RUNTIME, {}, tmp_path / "x", rank=2)
