"""Adapters that children train: their start, their fold into full weights, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from trainables.models.adapters import adapt
from trainables.models.registry import build
from trainables.models.tensors import hold, wide_type
from trainables.spec import adapter_settings
from trainables.tasks.tasks import trained_names

TOKENS = torch.arange(12)[None]
Options = dict[str, Any]


def gpt(kind: str = "gpt2") -> nn.Module:
    torch.manual_seed(0)
    return build("gpt", 64, 0, 1, {"kind": kind, "width": 32}, text={"length": 16, "tokenizer": "bytes"})


def randomise(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {k: 0.1 * torch.randn(v.shape) if "lora_" in k else v for k, v in weights.items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_start_is_the_base_and_trains_the_factors_alone(kind: str) -> None:
    model = gpt(kind)
    adapted = adapt(model, adapter_settings({"kind": "lora", "r": 4}), 3, 64)
    base = model.state_dict()
    start = adapted.start(base)
    assert start.keys() == adapted.module.state_dict().keys()
    folded = adapted.fold(start)
    assert list(folded) == list(base)
    assert all(torch.equal(v, base[k]) for k, v in folded.items())
    assert all("lora_" in n for n in trained_names(adapted.module))
    assert len(trained_names(model)) == len(dict(model.named_parameters()))
    assert "lm_head" not in adapted.transposed
    memory = {p.data_ptr() for p in model.parameters()}
    frozen = [p for p in adapted.module.parameters() if not p.requires_grad]
    assert {p.data_ptr() for p in frozen} == memory  # one base on the device
    torch.testing.assert_close(adapted.module.eval()(TOKENS), model.eval()(TOKENS))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("options", [{"r": 4}, {"r": 3, "alpha": 5, "rslora": True}])
def test_a_fold_equals_merge_and_unload_bit_for_bit(kind: str, options: Options) -> None:
    model = gpt(kind)
    settings = adapter_settings({"kind": "lora", **options})
    adapted = adapt(model, settings, 3, 64)
    weights = randomise(adapted.start(model.state_dict()))
    config = LoraConfig(
        r=settings["r"], lora_alpha=settings["alpha"], use_rslora=settings["rslora"],
        target_modules=list(adapted.transposed), fan_in_fan_out=kind == "gpt2",
    )  # fmt: skip
    theirs: Any = get_peft_model(copy.deepcopy(model), config)  # pyright: ignore[reportArgumentType]
    theirs.base_model.model.load_state_dict(weights)
    expected = theirs.merge_and_unload().state_dict()
    folded = adapted.fold(weights)
    assert folded.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(folded[key], value), key
    adapted.module.load_state_dict(weights)
    by_factors = adapted.module.eval()(TOKENS)
    model.load_state_dict(folded)  # overwrites the base of the adapted module, too
    torch.testing.assert_close(by_factors, model.eval()(TOKENS), atol=1e-5, rtol=1e-5)


def test_the_seed_and_the_targets_decide() -> None:
    model = gpt()
    make = lambda seed, **o: adapt(model, adapter_settings({"kind": "lora", **o}), seed, 64)  # noqa: E731
    one, again, other = make(1), make(1), make(2)
    (key,) = [k for k in one.factors if k.startswith("transformer.h.0.attn.c_attn.lora_A")]
    assert torch.equal(one.factors[key], again.factors[key])
    assert not torch.equal(one.factors[key], other.factors[key])
    assert list(make(1, targets=["c_attn"]).transposed) == [f"transformer.h.{i}.attn.c_attn" for i in (0, 1)]
    assert list(make(1, targets=["h.1.mlp.c_fc"]).transposed) == ["transformer.h.1.mlp.c_fc"]


def test_a_base_of_half_precision_has_the_factors_of_a_full_one() -> None:
    model, settings = gpt(), adapter_settings({"kind": "lora", "r": 4})
    full = adapt(copy.deepcopy(model), settings, 3, 64)
    held = hold(copy.deepcopy(model), torch.bfloat16)
    half = adapt(held, settings, 3, 64)
    assert all(torch.equal(v, half.factors[k]) for k, v in full.factors.items())
    weights = randomise(half.start(held.state_dict()))
    rounded = {k: v.bfloat16().float() for k, v in model.state_dict().items()}
    expected = full.fold({k: weights[k] if "lora_" in k else v for k, v in full.start(rounded).items()})
    folded = half.fold(weights)
    assert all(torch.equal(v, expected[k]) for k, v in folded.items())
    half.module.load_state_dict(weights)
    full.module.load_state_dict(weights)
    with torch.no_grad():
        difference = (half.module.eval()(TOKENS).float() - full.module.eval()(TOKENS)).abs().max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj"], "adapter.targets must name linear layers, such as c_attn, c_proj, c_fc, ..., got 'q_proj'"),
        (["lm_head"], "adapter.targets must not name lm_head, whose weight is that of another layer, too"),
    ],
)
def test_wrong_targets_are_refused(targets: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(gpt(), adapter_settings({"kind": "lora", "targets": targets}), 0, 64)


def test_a_parameter_without_dimensions_stays_and_keeps_its_type() -> None:
    model = gpt()
    model.register_parameter("temperature", nn.Parameter(torch.tensor(2.0)))
    adapted = adapt(hold(model, torch.bfloat16), adapter_settings({"kind": "lora"}), 3, 64)
    folded = adapted.fold(adapted.start(model.state_dict()))
    assert torch.equal(folded["temperature"], torch.tensor(2.0))
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64)
    assert [wide_type(kind) for kind in kinds] == [*[torch.float32] * 3, torch.float64, torch.int64]
