"""Merges of LoRA adapters: exact on the effective updates, written as whole models or as adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tests.support.model_folders import half_ulp, load, lora, merged_by_peft, tiny_llama
from trainables.merging import adapter_folders, streaming
from trainables.merging.adapter_folders import adapt, open_adapter, write_adapter
from trainables.merging.methods import MERGES
from trainables.merging.streaming import StreamingMerge, list_streamable
from trainables.models.model_folders import open_model_folder

Folders = dict[str, Path]
TOKENS = torch.arange(12)[None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A base in two types, and adapters of it."""
    root = tmp_path_factory.mktemp("adapters")
    base = tiny_llama(root / "base", 0)
    half = tiny_llama(root / "half", 0, dtype=torch.bfloat16)
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32))
    gpt2.save_pretrained(root / "gpt2")
    made = {"base": base, "half": half, "gpt2": root / "gpt2"}
    every = {"target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"]}
    for name, options in {
        "a": {}, "b": {}, "rs_a": {"use_rslora": True}, "rs_b": {"use_rslora": True, "r": 3},
        "wide": {**every, "r": 6}, "other": {"name": "elsewhere"}, "dora": {"use_dora": True},
        "bias": {"bias": "lora_only"}, "saved": {"modules_to_save": ["lm_head"]},
        "pattern": {"alpha_pattern": {"down_proj": 32}, "rank_pattern": {"q_proj": 2}},
        "embedding": {"target_modules": ["embed_tokens"]},
    }.items():  # fmt: skip
        made[name] = lora(root / name, base, len(made), **options)
    for name in ("half_a", "half_b"):
        made[name] = lora(root / name, half, len(made))
        made[f"{name}16"] = in_bfloat16(made[name], root / f"{name}16")
    for name in ("gpt2_a", "gpt2_b"):
        made[name] = lora(
            root / name, root / "gpt2", len(made), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True
        )
    return made


def in_bfloat16(folder: Path, target: Path) -> Path:
    """Copy an adapter with factors in bfloat16."""
    shutil.copytree(folder, target)
    factors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v.bfloat16() for k, v in factors.items()}, target / "adapter_model.safetensors")
    return target


def merge_of(folders: Folders, base: str, names: list[str], method: str, coefficient: float) -> StreamingMerge:
    source = open_model_folder(folders[base])
    return StreamingMerge(adapt(source, [open_adapter(folders[n]) for n in names]), source, method, coefficient)


def state(folder: Path) -> dict[str, Tensor]:
    source = open_model_folder(folder)
    return {k: source.read(k) for k in source.entries}


PAIRS = [
    ("base", "a", "b"), ("base", "rs_a", "rs_b"), ("base", "a", "wide"), ("base", "rs_a", "pattern"),
    ("half", "half_a", "half_b"), ("half", "half_a16", "half_b16"), ("gpt2", "gpt2_a", "gpt2_b"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "a", "b"), PAIRS)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weight_one_on_an_adapter_is_that_parent_bit_for_bit(
    folders: Folders, tmp_path: Path, base: str, a: str, b: str, weight: float
) -> None:
    merge_of(folders, base, [a, b], "linear", weight).write(tmp_path / "merged")
    expected, merged = (
        merged_by_peft(folders[base], folders[b if weight else a]),
        load(tmp_path / "merged").state_dict(),
    )
    assert merged.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(merged[key], value), key
    assert not torch.equal(load(folders[base])(TOKENS).logits, load(tmp_path / "merged")(TOKENS).logits)


@pytest.mark.parametrize(("base", "a", "b"), PAIRS)
def test_an_adapter_of_enough_rank_keeps_the_parent(
    folders: Folders, tmp_path: Path, base: str, a: str, b: str
) -> None:
    merge = merge_of(folders, base, [a, b], "linear", 1.0)
    _, discarded = write_adapter(tmp_path / "adapter", merge, 6)
    assert discarded < 1e-12
    parent, again = open_adapter(folders[b]), open_adapter(tmp_path / "adapter")
    for module in parent.factors:
        whole, kept = parent.update(module), again.update(module)
        assert torch.linalg.vector_norm(kept - whole) < 1e-6 * torch.linalg.vector_norm(whole)
    model = PeftModel.from_pretrained(load(folders[base]), tmp_path / "adapter")
    expected = PeftModel.from_pretrained(load(folders[base]), folders[b])
    torch.testing.assert_close(model(TOKENS).logits, expected(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_a_merge_acts_on_the_updates(folders: Folders, tmp_path: Path) -> None:
    base, (a, b) = state(folders["base"]), [open_adapter(folders[n]) for n in ("a", "wide")]
    merge_of(folders, "base", ["a", "wide"], "task_arithmetic", 0.8).write(tmp_path / "merged")
    merged = state(tmp_path / "merged")
    for key, value in base.items():
        module = key.removesuffix(".weight")
        updates = [x.update(module).double() for x in (a, b) if module in x.factors]
        expected = value.double() + 0.8 * sum(updates, torch.zeros(()).double())
        torch.testing.assert_close(merged[key].double(), expected, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("method", ["ties", "dare", "slerp", "uniform_soup", "model_stock"])
def test_other_merges_equal_those_of_whole_models(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(streaming, "PART", 500)
    coefficient = 1.0 if method in ("uniform_soup", "model_stock") else 0.6
    merge_of(folders, "base", ["a", "b"], method, coefficient).write(tmp_path / "merged")
    base = {k: v.double() for k, v in state(folders["base"]).items()}
    children: list[dict[str, Tensor]] = []
    for name in "ab":
        adapter = open_adapter(folders[name])
        children.append({k: v.clone() for k, v in base.items()})
        for module in adapter.factors:
            children[-1][f"{module}.weight"] += adapter.update(module).double()
    expected = MERGES[method](base, children, coefficient, seed=0)
    for key, value in state(tmp_path / "merged").items():
        assert torch.equal(value, expected[key].float())


def updated(folders: Folders, base: str, name: str) -> dict[str, Tensor]:
    """Return the weights of a base plus the update of an adapter, all in float64."""
    weights = {k: v.double() for k, v in state(folders[base]).items()}
    adapter = open_adapter(folders[name])
    factors = load_file(folders[name] / "adapter_model.safetensors")
    for module in adapter.factors:
        a, b = (factors[f"base_model.model.{module}.lora_{f}.weight"].double() for f in "AB")
        weights[f"{module}.weight"] += adapter.config["lora_alpha"] / adapter.config["r"] * (b @ a)
    return weights


@pytest.mark.parametrize("method", list_streamable())
@pytest.mark.parametrize("kind", ["", "16"])
def test_a_merge_on_a_half_precision_base_is_rounded_once(
    folders: Folders, tmp_path: Path, method: str, kind: str
) -> None:
    names, coefficient = [f"half_a{kind}", f"half_b{kind}"], 1.0 if MERGES[method].grid == (1.0,) else 0.6
    merge = merge_of(folders, "half", names, method, coefficient)
    merge.write(tmp_path / "merged")
    base = {k: v.double() for k, v in state(folders["half"]).items()}
    exact = MERGES[method](base, [updated(folders, "half", n) for n in names], coefficient, seed=0)
    for key, value in state(tmp_path / "merged").items():
        assert value.dtype == torch.bfloat16
        # the update in float32, then the sum once
        assert bool(((value.double() - exact[key]).abs() <= 1.01 * half_ulp(exact[key])).all())
    # an adapter of enough rank is not rounded to the type of the base
    _, discarded = write_adapter(tmp_path / "adapter", merge, 32)
    small = open_adapter(tmp_path / "adapter")
    assert discarded < 1e-12
    for module in small.factors:
        change = exact[f"{module}.weight"] - base[f"{module}.weight"]
        lost, norm = (torch.linalg.vector_norm(v) for v in (small.update(module) - change, change))
        assert lost <= 1e-12 + 1e-6 * norm


@pytest.mark.parametrize("full", [512, 8])
def test_the_discarded_share_is_what_truncation_loses(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    monkeypatch.setattr(adapter_folders, "_FULL", full)  # both decompositions
    merge = merge_of(folders, "base", ["a", "b"], "linear", 0.5)
    written, discarded = write_adapter(tmp_path / "small", merge, 2)
    lost = total = 0.0
    small, parents = open_adapter(tmp_path / "small"), [open_adapter(folders[n]) for n in "ab"]
    for module in small.factors:
        update = sum(p.update(module).double() for p in parents) / 2
        lost += float((update - small.update(module).double()).square().sum())
        total += float(update.square().sum())
        best = torch.linalg.svdvals(update)[2:].square().sum()
        assert float((update - small.update(module).double()).square().sum()) == pytest.approx(float(best), rel=1e-5)
    assert discarded == pytest.approx(lost / total, rel=1e-5)
    assert 0.05 < discarded < 0.9
    assert written.parameters == sum(
        t.numel() for t in load_file(tmp_path / "small" / "adapter_model.safetensors").values()
    )


def edited(folder: Path, target: Path, **config: Any) -> Path:
    """Copy an adapter with other settings."""
    target.mkdir()
    save_file(load_file(folder / "adapter_model.safetensors"), target / "adapter_model.safetensors")
    old = json.loads((folder / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(old | config))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, t: f["dora"], "uses use_dora, which cannot be merged: its update must be scaling·BA alone"),
        (lambda f, t: f["bias"], r"trains biases \(bias 'lora_only'\), which cannot be merged; use bias 'none'"),
        (lambda f, t: f["saved"], "uses modules_to_save, which cannot be merged"),
        (lambda f, t: f["embedding"], "holds .*lora_embedding_A of shape .*; adapters to merge must hold LoRA factors"),
        (lambda f, t: edited(f["a"], t, init_lora_weights="pissa"), "was started by 'pissa', which changes the base"),
        (lambda f, t: edited(f["a"], t, peft_type="IA3"), "must be a LoRA adapter, got peft_type 'IA3'"),
        (lambda f, t: edited(f["a"], t, lora_alpha="x"), "must have a number as lora_alpha, got 'x'"),
        (lambda f, t: edited(f["a"], t, alpha_pattern={"(a+)+": 1}), "must have names of modules and numbers as alpha"),
        (lambda f, t: edited(f["a"], t, new_thing=1), "uses new_thing, which cannot be merged"),
    ],
)
def test_an_adapter_whose_update_is_more_than_ba_is_refused(
    folders: Folders, tmp_path: Path, change: Callable[[Folders, Path], Path], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_adapter(change(folders, tmp_path / "edited"))


@pytest.mark.parametrize(
    ("base", "names", "message"),
    [
        ("base", ["a", "other"], "adapters to merge must have one base, got '.*base' of .* and 'elsewhere' of .*; if"),
        ("gpt2", ["a", "b"], r"--base must be the model that the adapters were trained on, .*base, got .*gpt2"),
        ("gpt2", ["other", "other"], r"changes model.layers.0.* which .*gpt2 does not hold as a weight"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(folders: Folders, base: str, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(open_model_folder(folders[base]), [open_adapter(folders[n]) for n in names])
