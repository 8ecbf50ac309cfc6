"""Pairs on a GPU: several at a time on one card and its utilisation, same spec same numbers, stop and go on, memory.

Eight pairs of ResNet-18 on CIFAR-10's JPEG re-encoding, one learning rate each, run by `python -m trainables.pair`. Two
runs of one spec are compared column by column, one of them killed in training and started again. One pair asks for
more memory than the card has. The text spaces follow at full size, one pair at a time: memory and speed. All of it is
sized for ten minutes of one card; the text part has run on a CPU alone so far. `--only text` and `--only images` run a
part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from text_on_gpu import FULL, TINY, make_files, make_specs, measure_text

SPEC: dict[str, Any] = {
    "dataset": "cifar10_jpeg", "model": "resnet18_32", "protocol": "branch", "branch_step": 600, "steps": 600,
    "decay": 0.5, "augmentation": "crop_flip", "augmentation_strength": 0.5, "autocast": "bfloat16",
    "base": {"steps": 0}, "batch_size": 128, "momentum": 0.9, "weight_decay": 5e-4, "learning_rate": 0.1,
    "accuracy_floor": 0.3, "merges": ["linear"],
}  # fmt: skip
LEARNING_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8)
FREE = ("seconds", "started", "host", "rss", "peak_memory", "commit")  # columns that two runs need not share


class Gauge(threading.Thread):
    """Reads the card's utilisation (%) and used memory (MiB) twice a second until `stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Sample."""
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        while not self.over.wait(0.5):
            try:
                line = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.splitlines()
            except OSError:
                return
            if line:
                use, memory = line[0].split(",")
                self.samples.append((float(use), float(memory)))

    def stop(self) -> None:
        """Print what was seen."""
        self.over.set()
        self.join()
        if not self.samples:
            print("the card's utilisation cannot be read here")
            return
        use = [u for u, _ in self.samples]
        print(
            f"utilisation: mean {statistics.mean(use):.0f} %, median {statistics.median(use):.0f} %, "
            f"{sum(u >= 90 for u in use) / len(use):.0%} of {len(use)} samples at 90 % or more; "
            f"most memory {max(m for _, m in self.samples) / 1024:.1f} GiB"
        )


class Pairs:
    """Runs pairs in processes of their own, over one folder of bases and one cache."""

    def __init__(self, folder: Path, data: str, device: str) -> None:
        self.folder, self.data, self.device = folder, data, device

    def start(self, name: str, spec: dict[str, Any], *more: str, bases: str = "bases") -> subprocess.Popen[str]:
        """Start a pair; its row comes on stdout."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(spec))
        command = [
            sys.executable, "-m", "trainables.pair", str(file), "--data", self.data, "--device", self.device,
            "--cache", str(self.folder / "cache"), "--bases", str(self.folder / bases), *more,
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def row(self, name: str, spec: dict[str, Any], *more: str, bases: str = "bases") -> dict[str, Any]:
        """Run a pair to its end and return its row, with `wall` in seconds."""
        started = time.perf_counter()
        out, error = (process := self.start(name, spec, *more, bases=bases)).communicate()
        if process.returncode:
            raise SystemExit(f"{name}: exit code {process.returncode}: {error[-2000:]}")
        return json.loads(out) | {"wall": time.perf_counter() - started}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the columns that say something else, but times and places."""
    return [k for k in a if k != "wall" and not any(f in k for f in FREE) and a[k] != b[k]]


def table(rows: list[dict[str, Any]]) -> None:
    """Print what the pairs came to."""
    print(f"{'lr':>6} {'noise':>8} {'parents val':>11} {'merged val':>10} {'gain val':>9} {'gain test':>9} "
          f"{'loss gain':>9} {'seconds':>8} {'GiB':>5}  outcome")  # fmt: skip
    for r in rows:
        parents = (r["a_accuracy_val"] + r["b_accuracy_val"]) / 2 if r["a_accuracy_val"] is not None else None
        cells = (parents, r["merged_accuracy_val"], r["gain_mean_accuracy_val"], r["gain_mean_accuracy_test"],
                 r["gain_mean_loss_val"])  # fmt: skip
        numbers = " ".join(f"{'':>10}" if c is None else f"{c:>10.4f}" for c in cells)
        print(f"{r['learning_rate']:>6.3g} {r['noise_paper']:>8.2g} {numbers} {r['device_seconds']:>8.1f} "
              f"{(r['peak_memory_bytes'] or 0) / 2**30:>5.1f}  {r['outcome']}")  # fmt: skip


def stopped(pairs: Pairs, spec: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Kill a run after its first checkpoint, start it again, return its row."""
    kept = pairs.folder / "checkpoints"
    options = ("--checkpoints", str(kept), "--checkpoint-steps", "100", "--deterministic")
    first = pairs.start("stopped", spec, *options, bases="bases-stopped")
    deadline = time.monotonic() + seconds
    while not any(f.is_file() for f in kept.rglob("[!.]*")) and time.monotonic() < deadline:
        if first.poll() is not None:
            break
        time.sleep(0.2)
    first.kill()
    first.wait()
    print(f"killed with {sum(1 for f in kept.rglob('*') if f.is_file())} files of checkpoints")
    return pairs.row("stopped", spec, *options, bases="bases-stopped")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SWEEPER_DATA"), help="data root (default: SWEEPER_DATA)")
    parser.add_argument("--at-once", type=int, default=4, help="pairs on the card (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for the rows as JSON")
    parser.add_argument("--set", type=json.loads, default={}, help="fields of the pairs, as JSON", metavar="JSON")
    parser.add_argument("--only", choices=("images", "text"), help="the part to run (default: both)")
    parser.add_argument("--tiny", action="store_true", help="small models of text, for a try on a CPU")
    parser.add_argument("--memory-batch", type=int, default=32_000, help="batch size of the pair that is too large")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: needs a GPU")
        return
    print(provenance(), flush=True)
    found: dict[str, Any] = {}
    if args.only != "text":
        found |= images(args)
    if args.only != "images":
        found |= texts(args.device, args.tiny)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "rows.json").write_text(json.dumps(found))


def texts(device: str, tiny: bool) -> dict[str, Any]:
    """Measure the text spaces and return their rows."""
    size = TINY if tiny else FULL
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        specs = make_specs(root, make_files(root, size), size)
        return {"text": measure_text(Pairs(Path(folder), str(root), device).row, specs)}


def images(args: argparse.Namespace) -> dict[str, Any]:
    """Run the pairs of images and return their rows; empty without their data set."""
    if not args.data:
        print("no images: they need SWEEPER_DATA with cifar10_jpeg")
        return {}
    spec = SPEC | args.set
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs(Path(folder), args.data, args.device)
        first = pairs.row("alone", spec | {"steps": 100, "branch_step": 0, "protocol": "finetune"})  # fills the cache
        print(f"one short pair, the archive unpacked: {first['wall']:.1f} s", flush=True)

        gauge, started = Gauge(), time.perf_counter()
        gauge.start()
        with ThreadPoolExecutor(args.at_once) as pool:
            rows = list(pool.map(lambda lr: pairs.row(f"lr{lr}", spec | {"learning_rate": lr}), LEARNING_RATES))
        wall = time.perf_counter() - started
        gauge.stop()
        steps = spec.get("branch_step", 0) + 2 * spec["steps"]
        print(f"{len(rows)} pairs of {steps} steps, {args.at_once} at a time: {wall:.0f} s, "
              f"{len(rows) * steps * spec['batch_size'] / wall:.0f} images/s")  # fmt: skip
        table(rows)

        short = spec | {"steps": 300, "branch_step": 300}
        with ThreadPoolExecutor(3) as pool:
            whole = pool.submit(pairs.row, "whole", short, "--deterministic", bases="bases-whole")
            again = pool.submit(pairs.row, "again", short, "--deterministic", bases="bases-again")
            broken = pool.submit(stopped, pairs, short, 120.0)
            one, two, three = whole.result(), again.result(), broken.result()
        print(f"the same pair twice: {differing(one, two) or 'all columns equal'}")
        print(f"killed and continued: {differing(one, three) or 'all columns equal'}", flush=True)

        large = pairs.row(
            "memory", spec | {"batch_size": args.memory_batch, "steps": 2, "branch_step": 2, "autocast": ""}
        )
        print(f"batches of {args.memory_batch} in float32: {large['outcome']}: {large['outcome_detail'][:200]}")
    return {"pairs": rows, "twice": [one, two], "continued": three, "memory": large}


if __name__ == "__main__":
    main()
