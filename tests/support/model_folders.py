"""Small model folders as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def tiny_llama(folder: Path, seed: int, near: Path | None = None, shard: str = "50GB", **options: Any) -> Path:
    """Save a Llama of about 30,000 parameters, near the model of another folder or random."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}
    dtype = options.pop("dtype", torch.float32)
    if near is None:
        model: Any = LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **options}))
    else:
        model = AutoModelForCausalLM.from_pretrained(near)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn(parameter.shape)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def load(folder: Path) -> Any:
    """Return the model of a folder in evaluation mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def lora(folder: Path, base: Path, seed: int, name: str = "", **options: Any) -> Path:
    """Save a LoRA adapter with random factors, and its base under the path `name`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **options}
    model: Any = get_peft_model(load(base), LoraConfig(**settings))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder, save_embedding_layers=False)
    if name:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": name}))
    return folder


def half_ulp(values: torch.Tensor) -> torch.Tensor:
    """Return the largest error of rounding float64 numbers to bfloat16, which has 8 bits, once."""
    return torch.exp2(values.abs().clamp(min=1e-30).log2().floor() - 8)


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of `merge_and_unload`."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load(base), adapter).merge_and_unload().state_dict()
