"""Adapters in float32 on a frozen base in bfloat16, against the same trial with the rounded base in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

import search_spaces
from tests.support.model_folders import load, tiny_llama
from trainables.pair import export
from trainables.pair.export import export_model
from trainables.pair.run import run_pair
from trainables.pair.setup import build_model, inspect, prepare
from trainables.result import PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks import tasks as tasks_module

DATA = {"context": 8, "train": 96, "val": 32, "test": 32}
TRIAL: dict[str, Any] = {
    "dataset": "sentences", "dataset_options": DATA, "model": "gpt", "learning_rate": 0.02, "batch_size": 8,
    "steps": 8, "optimizer": "adamw", "model_options": {"width": 16, "heads": 2, "dtype": "bfloat16"},
    "base": {"steps": 20, "learning_rate": 0.1}, "merges": ("linear", "task_arithmetic", "ties", "regmean"),
    "adapter": {"kind": "lora", "r": 2},
}  # fmt: skip
SPEC = PairSpec(**TRIAL)
RUNTIME = Runtime(measure=2)


@pytest.fixture(scope="module")
def half() -> PairOutput:
    """The trial with its base in bfloat16."""
    return run_pair(SPEC, RUNTIME)


@pytest.fixture(scope="module")
def full() -> PairOutput:
    """The trial with the same base values and the same random streams, but all computation in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_module, "hold", lambda model, kind: model)
        return run_pair(SPEC, RUNTIME)


def test_the_base_is_rounded_once_and_the_factors_are_full(half: PairOutput) -> None:
    task = prepare(SPEC, RUNTIME).tasks[0]
    assert task.adapted is not None
    kinds = {n: p.dtype for n, p in task.trainee.named_parameters()}
    assert {k for n, k in kinds.items() if "lora_" in n} == {torch.float32}
    assert {k for n, k in kinds.items() if "lora_" not in n} == {torch.bfloat16}
    memory = {p.data_ptr() for p in task.model.parameters()}
    assert {p.data_ptr() for p in task.trainee.parameters() if not p.requires_grad} == memory
    assert all(v.dtype == torch.float32 for v in task.base.values())
    assert all(torch.equal(v, v.bfloat16().float()) for v in task.base.values())
    # the base trains in full precision
    whole = prepare(replace(SPEC, model_options={**SPEC.model_options, "dtype": "float32"}), RUNTIME).tasks[0]
    assert any(not torch.equal(v, v.bfloat16().float()) for v in whole.base.values())
    assert half.weights is not None
    assert {v.dtype for v in half.weights.values()} == {torch.float32}


def test_noise_and_scores_are_those_of_float32_within_bfloat16(half: PairOutput, full: PairOutput) -> None:
    one, other = half.result, full.result
    assert one.digest == other.digest
    for name in ("trace_sigma", "trace_sigma_base", "gradient_norm2"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=0.05), name
    for name, value in other.scores.items():
        if value is not None and "_loss_" in name and not name.startswith(("gain", "barrier")):
            assert one.scores[name] == pytest.approx(value, rel=0.01), name
    ours = {(m.method, m.coefficient): m.loss_val for m in half.merges}
    for merge in full.merges:
        assert ours[merge.method, merge.coefficient] == pytest.approx(merge.loss_val, rel=0.01)


def test_merges_hold_the_exact_update(half: PairOutput, full: PairOutput) -> None:
    task = prepare(SPEC, RUNTIME).tasks[0]
    assert task.adapted is not None
    assert half.weights is not None
    assert full.weights is not None
    linear = run_pair(replace(SPEC, merges=("linear",)), RUNTIME).weights
    assert linear is not None
    for name in task.adapted.transposed:
        key = f"{name}.weight"
        update = (linear[key] - task.base[key]).double()
        values = torch.linalg.svdvals(update)
        # two adapters of rank 2; rounding to bfloat16 would give the update full rank
        assert values[4] < 1e-3 * values[0]
        rounded = torch.linalg.svdvals(linear[key].bfloat16().double() - task.base[key].double())
        assert rounded[4] > 10 * values[4]
    moved = {k for k, v in linear.items() if not torch.equal(v, task.base[k])}
    assert moved == {f"{n}.weight" for n in task.adapted.transposed}
    if half.result.chosen_merge == full.result.chosen_merge:
        deltas = [
            torch.cat([(w[f"{n}.weight"] - task.base[f"{n}.weight"]).flatten() for n in task.adapted.transposed])
            for w in (half.weights, full.weights)
        ]
        assert torch.nn.functional.cosine_similarity(*deltas, dim=0) > 0.98


def test_the_trial_is_a_function_of_its_spec(half: PairOutput) -> None:
    again = run_pair(SPEC, RUNTIME)
    assert again.result.scores == half.result.scores
    assert again.result.trace_sigma == half.result.trace_sigma
    assert half.weights is not None
    assert again.weights is not None
    assert all(torch.equal(v, again.weights[k]) for k, v in half.weights.items())


def loss_of(model: Any, spec: PairSpec) -> float:
    x, y = prepare(spec, RUNTIME, with_base=False).tasks[0].data.scored("val")
    with torch.no_grad():
        return float(cross_entropy(model.eval()(x[slice(0, len(x))]).logits.float().flatten(0, 1), y.flatten()))


def test_saved_models_have_the_loss_of_the_trial(half: PairOutput, tmp_path: Path) -> None:
    assert half.weights is not None
    expected = half.result.scores["chosen_loss_val"]
    export_model(SPEC, RUNTIME, half.weights, tmp_path / "whole")
    whole = load(tmp_path / "whole")
    assert whole.dtype == torch.float32
    assert loss_of(whole, SPEC) == pytest.approx(expected, rel=1e-6)
    exported = export_model(SPEC, RUNTIME, half.weights, tmp_path / "adapter", rank=16)
    assert exported.discarded == pytest.approx(0, abs=1e-9)
    base = load(tmp_path / "adapter" / export.BASE)
    assert base.dtype == torch.bfloat16
    assert loss_of(PeftModel.from_pretrained(base, tmp_path / "adapter"), SPEC) == pytest.approx(expected, rel=0.01)
    wide = load(tmp_path / "adapter" / export.BASE).float()
    assert loss_of(PeftModel.from_pretrained(wide, tmp_path / "adapter"), SPEC) == pytest.approx(expected, rel=1e-5)
    model = build_model(SPEC, RUNTIME)
    model.load_state_dict(half.weights)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_folders_branches_stacks_rungs_and_landscapes_take_it(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", 0, vocab_size=256, dtype=torch.bfloat16)
    settings = {"dtype": "bfloat16", "attention": "eager"}
    spec = replace(SPEC, model=f"hf:{folder}", base={"steps": 0}, model_options=settings, merges=("linear", "fisher"))  # pyright: ignore[reportArgumentType]
    output = run_pair(spec, Runtime(measure=0, rungs=1, landscape=True))
    assert output.result.outcome == "ok", output.result.outcome_detail
    assert output.weights is not None
    base = load(folder).state_dict()
    moved = {k for k, v in output.weights.items() if not torch.equal(v, base[k])}
    assert moved == {k for k, v in base.items() if v.dim() == 2 and "embed" not in k and "head" not in k}
    stacked = replace(spec, stack=2, adapter={"kind": "lora", "r": 2, "rslora": True, "dropout": 0.1})
    assert run_pair(stacked, Runtime(measure=2)).result.outcome == "ok"
    branch = replace(SPEC, protocol="branch", branch_step=4, window={"size": 2})
    assert run_pair(branch, Runtime(measure=0)).result.outcome == "ok"
    small = search_spaces.load("text_lora").small()
    params = {"learning_rate": 0.03, "batch_size": 8, "weight_decay": 0.01, "beta2": 0.99}
    options = {**small.fixed["model_options"], "dtype": "bfloat16"}
    assert small.build(params, model_options=options).held_dtype == "bfloat16"


def test_what_would_round_steps_away_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model_options\.dtype must be float32 without an adapter, got 'bfloat16'"):
        replace(SPEC, adapter={})
    with pytest.raises(ValueError, match=r"dtype must be float32 with model_options\.dtype bfloat16, got 'float64'"):
        replace(SPEC, dtype="float64")
    with pytest.raises(ValueError, match=r"model_options\.dtype must be float32 or bfloat16, got 'float16'; "):
        inspect([replace(SPEC, model_options={"dtype": "float16"})], RUNTIME)
    with pytest.raises(ValueError, match=r"model_options\.attention must be sdpa or eager, got 'fast'$"):
        inspect([replace(SPEC, model_options={"attention": "fast"})], RUNTIME)


@pytest.mark.parametrize(
    ("attention", "why"),
    [
        ("flash_attention_2", "the package flash-attn computes in half precision alone"),
        ("flash_attention_3", "the package flash-attn computes in half precision alone"),
        ("flex_attention", "it has no second derivatives"),
    ],
)
def test_attention_that_cannot_score_is_refused_with_its_reason(attention: str, why: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", 0, vocab_size=256)
    for model in ("gpt", f"hf:{folder}"):
        base = {"steps": 0} if model != "gpt" else SPEC.base
        spec = replace(SPEC, model=model, base=base, model_options={"attention": attention})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match=f"must be sdpa or eager, got '{attention}': {why}.*; sdpa with autocast"):
            inspect([spec], RUNTIME)
