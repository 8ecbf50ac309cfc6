"""Repeats as one `torch.func` stack against one after the other: images per second, and their ratio in one run."""

import argparse
import statistics
import time

import torch
from provenance import provenance

import search_spaces
from tests.support.courses import finetune
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.training.loop import Seeds


def images_per_second(spec: PairSpec, members: int) -> float:
    """Train `members` children for the spec's epochs and return the images trained on per second."""
    task = prepare(spec, Runtime()).tasks[0]
    data = task.data
    seeds = [Seeds(2 * i, 2 * i + 1) for i in range(members)]
    start = time.perf_counter()
    finetune(spec, task.model, task.base, data, seeds)
    steps = data.examples // spec.batch_size * spec.epochs
    return members * steps * spec.batch_size / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each, in turn (default: %(default)s)")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    print(f"digits_cnn, 2 epochs, one thread, median of {runs} (least to most); {provenance()}")
    print(f"{'members':>7} {'batch':>5} {'loop images/s':>14} {'stack images/s':>14} {'ratio':>18}")
    space = search_spaces.load("digits_cnn")
    for batch in (8, 16, 32, 64, 128):
        for members in (2, 4, 8, 16, 32):
            params = {"learning_rate": 0.02, "batch_size": batch, "momentum": 0.9, "weight_decay": 1e-4}
            spec = space.build({**params, "augmentation_strength": 0.5}, epochs=2)
            stacked = space.build({**params, "augmentation_strength": 0.5}, epochs=2, stack=members // 2 + 1)
            pairs = [(images_per_second(spec, members), images_per_second(stacked, members)) for _ in range(runs)]
            ratios = sorted(s / one for one, s in pairs)
            loop, stack = (statistics.median(p[i] for p in pairs) for i in (0, 1))
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"
            print(f"{members:>7} {batch:>5} {loop:>14.0f} {stack:>14.0f} {spread:>18}", flush=True)


if __name__ == "__main__":
    main()
