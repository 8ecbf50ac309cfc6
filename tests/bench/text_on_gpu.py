"""Memory and speed of the text spaces at full size, on text and models made up on the spot; part of `bench_gpu.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces import load

Row = dict[str, Any]
Runner = Callable[[str, dict[str, Any]], Row]
"""Runs the pair of a name and a spec, and returns its row with `wall` in seconds."""
PARAMS = {"learning_rate": 1e-3, "weight_decay": 0.01, "beta2": 0.99}
SETS = {
    "tinyshakespeare": ["text/tinyshakespeare.txt"],
    "tinystories": ["text/TinyStories-train.txt", "text/TinyStories-valid.txt"],
}
"""Named data sets and their files under the data root."""


@dataclass(frozen=True)
class Size:
    """Sizes of the measurement.

    Attributes:
        fields: Space -> fields that replace its own; the models keep the size of the space.
        batches: Space -> batch sizes.
        megabytes: Size of a corpus [MB].
        words: Vocabulary of the tokenizer beside the adapters' base.
        base: Options of the adapters' base, a Llama.
    """

    fields: Mapping[str, Mapping[str, Any]]
    batches: Mapping[str, tuple[int, ...]]
    megabytes: float
    words: int
    base: Mapping[str, Any]


_STEPS = {"steps": 60, "branch_step": 60}
FULL = Size(
    fields={
        "shakespeare_gpt": {"base": {"steps": 0}, "loss_ceiling": 0.0},
        "tinystories_gpt": _STEPS,
        "text_lora": {"epochs": 1, "steps": 60},
    },
    batches={"shakespeare_gpt": (8, 64), "tinystories_gpt": (16, 128, 512), "text_lora": (8, 32)},
    megabytes=20.0,
    words=32_000,
    base={"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
          "num_key_value_heads": 4, "max_position_embeddings": 2048},
)  # fmt: skip
"""The spaces' own models, and a Llama of 1.1 billion parameters below the adapters."""
_SPLITS = {"context": 8, "train": 64, "val": 8, "test": 8}
_SMALL = {"dataset_options": _SPLITS, "model_options": {"layers": 1, "heads": 2, "width": 8}, "autocast": ""}
TINY = Size(
    fields={
        "shakespeare_gpt": {**_SMALL, "base": {"steps": 0}, "loss_ceiling": 0.0, "steps": 2},
        "tinystories_gpt": {**_SMALL, "steps": 2, "branch_step": 2},
        "text_lora": {"dataset_options": _SPLITS, "epochs": 1, "steps": 2},
    },
    batches={"shakespeare_gpt": (8,), "tinystories_gpt": (8,), "text_lora": (8,)},
    megabytes=0.05,
    words=40,
    base={"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
          "num_key_value_heads": 2, "max_position_embeddings": 32},
)  # fmt: skip


def make_files(root: Path, size: Size) -> Path:
    """Write the corpora under a data root, and a model folder with its tokenizer, which is returned."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    words = [f"w{i}" for i in range(size.words)]
    drawn = np.random.default_rng(0).zipf(1.2, int(size.megabytes * 1e6 / 5)) % size.words
    text = " ".join(words[i] for i in drawn)
    (root / "text").mkdir(parents=True)
    for file in (f for files in SETS.values() for f in files):
        (root / file).write_text(text)
    model = root / "model"
    LlamaForCausalLM(LlamaConfig(vocab_size=size.words, **size.base)).save_pretrained(model)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.save(str(model / "tokenizer.json"))
    return model


def make_specs(root: Path, model: Path, size: Size) -> dict[str, dict[str, Any]]:
    """Return name -> spec of a pair: each space at each batch size, the adapters on a base of both types."""
    specs: dict[str, dict[str, Any]] = {}
    for name, batches in size.batches.items():
        fields = {"merges": ["linear"], **size.fields[name]}
        for batch in batches:
            more: dict[str, dict[str, Any]] = {"": {}}
            if name == "text_lora":
                options = {"path": str(root / SETS["tinystories"][0]), "tokenizer": str(model)}
                space = load(name).fixed["dataset_options"]
                own = {**space, **fields.get("dataset_options", {}), **options}
                fields |= {"model": f"hf:{model}", "dataset_options": own}
                more = {f" {kind}": {"model_options": {"dtype": kind}} for kind in ("float32", "bfloat16")}
            for kind, options in more.items():
                spec = load(name).override({}, {**fields, **options}).build({**PARAMS, "batch_size": batch})
                specs[f"{name}{kind} B={batch}"] = json.loads(spec.to_json())
    return specs


def measure_text(run: Runner, specs: Mapping[str, dict[str, Any]]) -> list[Row]:
    """Print memory and speed of each pair, one at a time, and return the rows."""
    print(f"{'pair':<32} {'parameters':>12} {'ms/step':>8} {'tokens/s':>10} {'GiB':>6} {'wall s':>7}  outcome")
    rows: list[Row] = []
    for name, spec in specs.items():
        row = {"name": name, **run(name.replace(" ", "-"), spec)}
        per_step, tokens = row["step_seconds"], (row["tokens_per_example"] or 0) * spec["batch_size"]
        print(f"{name:<32} {row['parameters'] or 0:>12,} {1e3 * (per_step or 0):>8.1f} "
              f"{tokens / per_step if per_step else 0:>10.0f} {(row['peak_memory_bytes'] or 0) / 2**30:>6.2f} "
              f"{row['wall']:>7.1f}  {row['outcome']}", flush=True)  # fmt: skip
        rows.append(row)
    return rows
