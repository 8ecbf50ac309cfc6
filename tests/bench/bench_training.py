"""Training of one child against a plain PyTorch loop over a DataLoader: images per second, and their ratio in one run.

Both do the same work: ResNet-18 for 32x32 on CIFAR-10's JPEG re-encoding (or scikit-learn's digits at 32x32, where
the data root has none), random crop and flip, SGD with momentum. The plain loop decodes nothing either: its images are
in memory, transformed one by one by torchvision in worker processes, as its tutorials do.

On a GPU ours also runs with `graphs: on`, in the same turns; its weights are compared with those of `graphs: off`.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from provenance import provenance
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from tests.support.courses import finetune
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.tasks import Task
from trainables.training.loop import Seeds


class InMemory(Dataset[Any]):
    """uint8 images in memory, transformed one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Any) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index]), self.labels[index]


def ours(spec: PairSpec, task: Task) -> float:
    """Return images per second of one child."""
    start = time.perf_counter()
    finetune(spec, task.model, task.base, task.data, [Seeds(0, 1)])
    _wait(task)
    return spec.steps * spec.batch_size / (time.perf_counter() - start)


def distance(spec: PairSpec, task: Task) -> float:
    """Return the largest distance of a weight between `graphs` on and off, over the largest weight."""
    eager, recorded = (
        finetune(replace(spec, graphs=graphs), task.model, task.base, task.data, [Seeds(0, 1)])[0].weights
        for graphs in ("off", "on")
    )
    floating = [n for n, w in eager.items() if w.is_floating_point()]
    return max(float((eager[n] - recorded[n]).abs().max() / eager[n].abs().max()) for n in floating)


def plain(spec: PairSpec, task: Task, images: torch.Tensor, workers: int) -> float:
    """Return images per second of the plain loop."""
    device = task.data.y["train"].device
    transform = v2.Compose(
        [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
         v2.Normalize([0.5] * 3, [0.25] * 3)]
    )  # fmt: skip
    data = InMemory(images, task.data.y["train"].cpu(), transform)
    model = task.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=spec.learning_rate, momentum=spec.momentum)
    loader = DataLoader(
        data, spec.batch_size, shuffle=True, drop_last=True, num_workers=workers, pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )  # fmt: skip
    start, steps = time.perf_counter(), 0
    while steps < spec.steps:
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=bool(spec.autocast)):
                loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if steps == spec.steps:
                break
    _wait(task)
    return steps * spec.batch_size / (time.perf_counter() - start)


def _wait(task: Task) -> None:
    if task.data.y["train"].device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="steps a run (default: 20, on a GPU 500)")
    parser.add_argument("--data", default=os.environ.get("SWEEPER_DATA"), help="data root (default: SWEEPER_DATA)")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop (default: %(default)s)")
    args = parser.parse_args()
    accelerated = torch.cuda.is_available()
    steps = args.steps or (500 if accelerated else 20)
    torch.set_num_threads(1)
    real = {
        "dataset": "cifar10_jpeg",
        "dataset_options": {} if accelerated else {"train": 4000, "val": 500, "test": 500},
    }
    fallback = {"dataset": "digits", "dataset_options": {"size": 32, "channels": 3}}
    settings: dict[str, Any] = {
        **(real if args.data else fallback), "model": "resnet18_32",
        "model_options": {} if accelerated else {"width": 16}, "learning_rate": 0.05, "batch_size": 128,
        "momentum": 0.9, "augmentation": "crop_flip", "augmentation_strength": 1.0, "base": {"steps": 0},
        "steps": steps, "autocast": "bfloat16" if accelerated else "",
    }  # fmt: skip
    spec = PairSpec(**settings)
    runtime = Runtime(args.data, device="cuda" if accelerated else "cpu")
    lab = prepare(spec, runtime)
    task = lab.tasks[0]
    x = task.data.x["train"][:].float().cpu()
    images = ((x - x.min()) / (x.max() - x.min()) * 255).to(torch.uint8)
    warm = replace(spec, steps=10)
    loops: dict[str, Callable[[PairSpec], float]] = {
        "ours": lambda spec: ours(spec, task), "plain loop": lambda spec: plain(spec, task, images, args.workers)
    }  # fmt: skip
    if accelerated:
        loops["ours, graphs"] = lambda spec: ours(replace(spec, graphs="on"), task)
    for loop in loops.values():
        loop(warm)
    runs = [{name: loop(spec) for name, loop in loops.items()} for _ in range(args.runs)]
    print(f"{spec.model} {spec.model_options}, {spec.dataset}, B = 128, {steps} steps, {args.workers} loader processes")
    print(f"median of {args.runs} (least to most); {provenance()}")
    for name in loops:
        values, ratios = [r[name] for r in runs], sorted(r[name] / r["plain loop"] for r in runs)
        print(
            f"{name:<12} {statistics.median(values):>9.0f} images/s ({min(values):.0f}–{max(values):.0f}), "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) times the plain loop"
        )
    if accelerated:
        print(f"weights with and without graphs after {warm.steps} steps: {distance(warm, task):.1e} apart")


if __name__ == "__main__":
    main()
