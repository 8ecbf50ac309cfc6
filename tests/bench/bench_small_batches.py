"""Small batches with torch's own convolutions against oneDNN's: images per second, and their ratio in one run."""

import statistics
import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from provenance import provenance

from tests.support.courses import finetune
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import BaseSpec, PairSpec
from trainables.tasks.tasks import Task
from trainables.training import loop
from trainables.training.loop import Seeds

RUNS, STEPS = 5, 300
SPEC = PairSpec(
    dataset="digits", model="small_cnn", learning_rate=0.01, batch_size=8, momentum=0.9, weight_decay=1e-4,
    augmentation="shift", augmentation_strength=0.5, base=BaseSpec(steps=0), steps=STEPS,
)  # fmt: skip


def _speed(spec: PairSpec, task: Task) -> float:
    start = time.process_time()
    finetune(spec, task.model, task.base, task.data, [Seeds(0, 1)])
    return spec.steps * spec.batch_size / (time.process_time() - start)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"small_cnn on digits, {STEPS} steps, images per second of CPU time, median of {RUNS}; {provenance()}")
    chosen = loop.small_convolutions
    for batch_size in (4, 8, 12, 16):
        spec = replace(SPEC, batch_size=batch_size)
        task = prepare(spec, Runtime(device="cpu")).tasks[0]
        _speed(replace(spec, steps=20), task)
        pairs: list[tuple[float, float]] = []
        for _ in range(RUNS):
            own = _speed(spec, task)
            loop.small_convolutions = lambda x: nullcontext()
            pairs.append((own, _speed(spec, task)))
            loop.small_convolutions = chosen
        ratios = sorted(a / b for a, b in pairs)
        own, usual = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"B = {batch_size:>2}: {own:>6.0f} against {usual:>6.0f}, ratio {statistics.median(ratios):.2f} "
              f"({ratios[0]:.2f}–{ratios[-1]:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
