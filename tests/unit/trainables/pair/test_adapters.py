"""Trials whose children train adapters: whole models come out, and noise is that of the trained parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import search_spaces
from tests.support.model_folders import load, tiny_llama
from trainables.pair.run import run_pair
from trainables.pair.setup import inspect, prepare
from trainables.runtime import Runtime
from trainables.spec import BaseSpec, PairSpec, adapter_settings

TRIAL: dict[str, Any] = {
    "dataset": "text", "model": "gpt", "learning_rate": 0.01, "batch_size": 8, "steps": 6, "optimizer": "adamw",
    "model_options": {"width": 16, "heads": 2}, "base": {"steps": 5, "learning_rate": 0.1},
    "merges": ("linear", "task_arithmetic", "ties", "fisher"), "adapter": {"kind": "lora", "r": 2},
}  # fmt: skip


@pytest.fixture
def trial(tmp_path: Path) -> PairSpec:
    """A trial of a tiny GPT on a small text."""
    text = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(6000))
    (tmp_path / "corpus.txt").write_text(text)
    data = {"path": str(tmp_path / "corpus.txt"), "context": 8, "train": 64, "val": 16, "test": 16}
    return PairSpec(**{**TRIAL, "dataset_options": data})


RUNTIME = Runtime(measure=2)


def test_children_train_adapters_and_come_out_whole(trial: PairSpec) -> None:
    output = run_pair(trial, replace(RUNTIME, landscape=True))
    row = output.result
    assert row.outcome == "ok", row.outcome_detail
    lab = prepare(trial, RUNTIME)
    task = lab.tasks[0]
    assert output.weights is not None
    assert output.weights.keys() == task.model.state_dict().keys()
    moved = {k for k, v in output.weights.items() if not torch.equal(v, task.base[k])}
    assert task.adapted is not None
    assert moved == {f"{name}.weight" for name in task.adapted.transposed}
    layers = [task.model.get_submodule(n).weight.shape for n in task.adapted.transposed]
    assert row.parameters == sum(2 * sum(shape) for shape in layers)
    assert row.trace_sigma is not None
    assert row.trace_sigma_base is not None
    assert row.scores["merged_loss_val"] is not None
    assert row.landscape["hessian_trace_merged"] is not None
    for other in output.merges:
        if other.coefficient == 0.5 and other.method == "task_arithmetic":
            assert other.loss_val == pytest.approx(row.scores["merged_loss_val"], rel=1e-5)


def test_a_model_folder_takes_adapters(trial: PairSpec, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", 0, vocab_size=256)
    space = search_spaces.load("text_lora")
    data = {**trial.dataset_options, "tokenizer": "bytes"}
    params = {"learning_rate": 0.01, "batch_size": 8, "weight_decay": 0.01, "beta2": 0.99}
    output = run_pair(space.build(params, model=f"hf:{folder}", dataset_options=data, steps=3), Runtime(measure=0))
    assert output.result.outcome == "ok", output.result.outcome_detail
    assert output.weights is not None
    before = load(folder).state_dict()
    moved = {k for k, v in output.weights.items() if not torch.equal(v, before[k])}
    assert moved == {k for k, v in before.items() if v.dim() == 2 and "embed" not in k and "head" not in k}


def test_a_model_folder_may_have_a_larger_vocabulary_than_its_tokenizer(trial: PairSpec, tmp_path: Path) -> None:
    letters = {chr(97 + i): i for i in range(26)}
    tokenizer = Tokenizer(models.WordLevel({**letters, "<unk>": 26}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    (tmp_path / "letters").mkdir()
    tokenizer.save(str(tmp_path / "letters" / "tokenizer.json"))
    folder = tiny_llama(tmp_path / "model", 0, vocab_size=32)
    data = {**trial.dataset_options, "tokenizer": str(tmp_path / "letters")}
    padded = replace(
        trial, model=f"hf:{folder}", model_options={}, dataset_options=data, base=BaseSpec(steps=0), steps=3
    )
    assert inspect([padded], Runtime()) == 64
    output = run_pair(padded, Runtime(measure=0))
    assert output.result.outcome == "ok", output.result.outcome_detail
    assert output.weights is not None
    before = load(folder).state_dict()
    moved = {k for k, v in output.weights.items() if not torch.equal(v, before[k])}
    assert moved == {k for k, v in before.items() if v.dim() == 2 and "embed" not in k and "head" not in k}


def test_a_trial_with_adapters_is_a_function_of_its_spec(trial: PairSpec) -> None:
    one, two = (run_pair(trial, RUNTIME) for _ in range(2))
    assert one.result.scores == two.result.scores
    assert one.weights is not None
    assert two.weights is not None
    assert all(torch.equal(v, two.weights[k]) for k, v in one.weights.items())


def test_trials_with_and_without_adapters_share_their_base(trial: PairSpec) -> None:
    assert trial.base_digest == replace(trial, adapter={}).base_digest
    assert trial.digest != replace(trial, adapter={}).digest
    spelled = PairSpec.from_json(trial.to_json())
    assert spelled == trial


def test_a_trunk_trains_the_adapter_too(trial: PairSpec) -> None:
    branch = replace(trial, protocol="branch", branch_step=4)
    assert run_pair(branch, RUNTIME).result.outcome == "ok"


def test_stacks_rungs_and_dropout_take_adapters(trial: PairSpec) -> None:
    spec = replace(trial, adapter={"kind": "lora", "r": 2, "dropout": 0.1})
    output = run_pair(spec, replace(RUNTIME, rungs=1))
    assert [r.rung for r in output.rungs] == [1]
    stacked = run_pair(replace(trial, stack=2), RUNTIME)
    assert stacked.result.outcome == "ok", stacked.result.outcome_detail


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"kind": "dora"}, "adapter.kind must be lora, got 'dora'"),
        ({"r": 4}, "adapter.kind must be lora, got nothing"),
        ({"kind": "lora", "use_dora": True}, "must have no settings but kind, r, alpha, targets, rslora, dropout, got"),
        ({"kind": "lora", "r": 0}, "adapter.r must be a whole number >= 1, got 0"),
        ({"kind": "lora", "r": 2.5}, "adapter.r must be a whole number >= 1, got 2.5"),
        ({"kind": "lora", "alpha": 0}, "adapter.alpha must be a number > 0, got 0"),
        ({"kind": "lora", "dropout": 1}, r"adapter.dropout must lie in \[0, 1\), got 1"),
        ({"kind": "lora", "rslora": 1}, "adapter.rslora must be true or false, got 1"),
        ({"kind": "lora", "targets": "q"}, "adapter.targets must be a list of names of layers, got 'q'"),
        ([], "adapter must be a mapping, got"),
    ],
)
def test_a_wrong_adapter_is_refused(trial: PairSpec, adapter: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(trial, adapter=adapter)


def test_an_adapter_that_does_not_fit_is_refused_before_training(trial: PairSpec) -> None:
    with pytest.raises(ValueError, match="freeze must be empty with an adapter"):
        replace(trial, freeze=("*wte*",))
    wrong = replace(trial, adapter={"kind": "lora", "targets": ["q_proj"]})
    with pytest.raises(ValueError, match=r"adapter\.targets must name linear layers"):
        inspect([wrong], RUNTIME)


def test_tasks_of_text_take_adapters_and_tasks_with_heads_do_not(trial: PairSpec) -> None:
    tasks = [{"name": "text", "options": {**trial.dataset_options, "train": n}} for n in (48, 64)]
    shared = {k: v for k, v in TRIAL.items() if k != "dataset"} | {"pair_kind": "tasks", "merges": ["linear", "ties"]}
    assert run_pair(PairSpec.from_mapping({**shared, "datasets": tasks}), Runtime(measure=0)).result.outcome == "ok"
    images = {"datasets": [{"name": "digits"}, {"name": "digits", "options": {"split_seed": 1}}], "model": "small_cnn"}
    with pytest.raises(ValueError, match="adapter must be empty where tasks have heads of their own"):
        inspect([PairSpec.from_mapping({**shared, **images, "model_options": {}})], RUNTIME)


def test_defaults_are_filled_in() -> None:
    expected = {"kind": "lora", "r": 8, "alpha": 16, "targets": [], "rslora": False, "dropout": 0.0}
    assert adapter_settings({"kind": "lora"}) == expected
    assert adapter_settings({}) == {}
