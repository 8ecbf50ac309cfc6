"""Seconds of the gradient measurement, the probe and the landscape on the 14k-parameter CNN and digits, one thread."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from provenance import provenance
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from trainables.measurement.augmentation_probe import augmentation_share
from trainables.measurement.gradients import measure, plan
from trainables.measurement.landscape import landscape
from trainables.models.registry import SmallCNN
from trainables.models.seeding import seed_generators

EXAMPLES, BATCH, EPOCHS = 1024, 16, 8


def digits() -> tuple[Tensor, Tensor]:
    """Return 1,024 images and labels, normalised."""
    bunch: Any = load_digits()
    x = torch.as_tensor(bunch.images[:EXAMPLES]).float()[:, None]
    return (x - x.mean()) / x.std(), torch.as_tensor(bunch.target[:EXAMPLES]).long()


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int) -> dict[str, Tensor]:
    """Return the weights after some epochs of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    order = Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(y), generator=order).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return {n: t.clone() for n, t in model.state_dict().items()}


def seconds(run: Callable[[], object], runs: int) -> str:
    """Return the median time of a call and its range."""
    run()  # first calls load what they need
    times: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return f"{statistics.median(times):8.3f} s ({min(times):.3f} to {max(times):.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default: %(default)s)")
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    x, y = digits()
    with seed_generators(0):
        model = SmallCNN(10)
    names, base = [n for n, _ in model.named_parameters()], train(model, x, y, 1, 0)
    ends: list[dict[str, Tensor]] = []
    for seed in (1, 2):
        model.load_state_dict(base)
        ends.append(train(model, x, y, EPOCHS, seed))
    a, b = ends
    middle = {n: (a[n] + b[n]) / 2 for n in a}
    planned = plan(EPOCHS * EXAMPLES)
    n = planned.micro_batches * planned.micro_size
    draws = [(x[:256] + 0.1 * i, y[:256]) for i in range(4)]
    print(f"small_cnn, {EXAMPLES} digits, one thread, median of {runs} (least to most); {provenance()}")
    for what, run in {
        f"{EPOCHS} epochs of one child": lambda: train(model, x, y, EPOCHS, 3),
        f"all its {planned.times} measurements, {planned.examples} examples": lambda: [
            measure(model, a, names, x[:n], y[:n], planned.micro_size) for _ in range(planned.times)
        ],
        "probe, one strength (256 examples, 4 draws)": lambda: augmentation_share(model, base, names, draws),
        "landscape, all columns": lambda: landscape(model, a, b, middle, names, x, y, 0),
    }.items():
        print(f"{what:>48} {seconds(run, runs)}", flush=True)
    for name, value in landscape(model, a, b, middle, names, x, y, 0).items():
        print(f"{name:>48} {value:.4g}")


if __name__ == "__main__":
    main()
