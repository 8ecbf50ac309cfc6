"""Peak memory and time of merges of model folders with random weights, and the output loaded back by transformers.

Usage: python tests/bench/bench_folders.py --folder DIR [--layers 16]

The models have the shapes of a Llama with 1.24 billion parameters (16 layers, tied embeddings), in bfloat16: 2.5 GB
each. DIR needs 10 GB. Models that it holds already are used, and stay; the bench removes those that it makes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from provenance import provenance
from torch import nn

from trainables.models.model_folders import INDEX, save_tensors

SHAPES = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
MERGES = {"linear": 0.5, "slerp": 0.5, "task_arithmetic": 0.5, "dare": 0.5, "ties": 0.5}
READ_BACK = """
import sys, torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
with torch.no_grad():
    logits = model(torch.arange(8)[None]).logits
print("loaded", type(model).__name__, sum(p.numel() for p in model.parameters()), "parameters,",
      model.dtype, "logits", tuple(logits.shape), "finite" if logits.isfinite().all() else "NOT FINITE")
"""


def make_folder(path: Path, layers: int, name: str) -> None:
    """Write random weights in two shards; those of `a` and `b` are near those of the folder `base` beside them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES, num_hidden_layers=layers, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    with torch.device("meta"):
        model: nn.Module = LlamaForCausalLM(config)
    path.mkdir(parents=True)
    config.save_pretrained(path)
    entries = {n: p.shape for n, p in model.named_parameters()}
    keys, draws = list(entries), torch.Generator().manual_seed(ord(name[0]))
    base = None if name == "base" else path.with_name("base")
    where: dict[str, str] = {}
    for i, part in enumerate((keys[: len(keys) // 2], keys[len(keys) // 2 :]), 1):
        name = f"model-{i:05d}-of-00002.safetensors"
        scale = 0.02 if base is None else 0.002
        tensors = {k: (scale * torch.randn(entries[k], generator=draws)).bfloat16() for k in part}
        if base is not None:
            from safetensors import safe_open

            with safe_open(base / name, framework="pt") as content:
                tensors = {k: v + content.get_tensor(k) for k, v in tensors.items()}
        save_tensors(path / name, tensors)
        where |= dict.fromkeys(part, name)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def run(*argv: str) -> tuple[float, float]:
    """Run a command, and return its peak memory in GB and its seconds."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *argv])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{argv[:4]} failed")
    return usage.ru_maxrss * 1024 / 1e9, time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder with 10 GB of room")
    parser.add_argument("--merges", nargs="+", default=list(MERGES), help="merges (default: all that stream)")
    parser.add_argument("--layers", type=int, default=16, help="layers of the models (default: %(default)s)")
    args = parser.parse_args()
    made = [name for name in ("base", "a", "b") if not (args.folder / name).exists()]
    for name in made:
        # in a process of its own, because a child's peak memory begins with that of its parent
        maker = get_context("spawn").Process(target=make_folder, args=(args.folder / name, args.layers, name))
        maker.start()
        maker.join()
    size = sum(f.stat().st_size for f in (args.folder / "a").iterdir())
    print(f"folders of {size / 1e9:.2f} GB in bfloat16, {provenance()}")
    print(f"{'merge':<16}{'peak GB':>8}{'seconds':>9}")
    out = args.folder / "merged"
    try:
        for method, coefficient in ((m, MERGES[m]) for m in args.merges):
            models = [str(args.folder / n) for n in "ab"]
            base = [] if method in ("linear", "slerp") else ["--base", str(args.folder / "base")]
            flags = ["--merges", method, "--coefficient", str(coefficient), "--save", str(out)]
            peak, seconds = run("-m", "sweeper", "merge", "--models", *models, *base, *flags)
            print(f"{method:<16}{peak:8.2f}{seconds:9.1f}", flush=True)
            if method == "linear":
                peak, seconds = run("-c", READ_BACK, str(out))
                print(f"{'  read back':<16}{peak:8.2f}{seconds:9.1f}", flush=True)
            shutil.rmtree(out)
    finally:
        for name in (*made, "merged"):
            shutil.rmtree(args.folder / name, ignore_errors=True)


if __name__ == "__main__":
    main()
