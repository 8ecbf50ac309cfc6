"""Resident batches against a plain DataLoader over the same work: crop, flip and normalise 3x32x32 images."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from provenance import provenance
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from trainables.datasets.dataset import Data
from trainables.result import SPLITS
from trainables.spec import PairSpec
from trainables.tasks.batches import epoch_batches

MEAN, STD = (0.5, 0.5, 0.5), (0.29, 0.29, 0.29)


class Plain(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's examples do it."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels.tolist()
        self.transform = v2.Compose([
            v2.RandomCrop(32, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def images_per_second(epoch: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> float:
    """Go through an epoch and return its images per second, the start of its workers included."""
    start, images = time.perf_counter(), 0
    for x, _ in epoch():
        images += len(x)
    return images / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="epochs of each, in turn (default: %(default)s)")
    parser.add_argument("--images", type=int, default=20_000, help="images of an epoch (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    g = Generator().manual_seed(0)
    images = torch.randint(0, 256, (args.images, 3, 32, 32), generator=g, dtype=torch.uint8)
    labels = torch.randint(0, 10, (args.images,), generator=g)
    few = {s: (images, labels) if s == "train" else (images[:10], labels[:10]) for s in SPLITS}
    data = Data({s: v[0] for s, v in few.items()}, {s: v[1] for s, v in few.items()}, 10)  # type: ignore[arg-type]
    plain = Plain(images, labels)
    print(
        f"crop_flip, {args.images} images of 3x32x32, one thread, median of {args.runs} (least to most); {provenance()}"
    )
    print(f"{'batch':>5} {'workers':>7} {'resident images/s':>18} {'DataLoader images/s':>20} {'ratio':>18}")
    for batch in (32, 128):
        spec = PairSpec("any", "any", 0.1, batch, augmentation="crop_flip", augmentation_strength=1.0)
        for workers in (0, 2):
            loader = DataLoader(plain, batch, shuffle=True, num_workers=workers, drop_last=True)
            pairs = [
                (images_per_second(lambda: epoch_batches(data, spec, g, g)), images_per_second(lambda: loader))  # noqa: B023
                for _ in range(args.runs)
            ]
            ratios = sorted(ours / theirs for ours, theirs in pairs)
            ours, theirs = (statistics.median(p[i] for p in pairs) for i in (0, 1))
            spread = f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f})"
            print(f"{batch:>5} {workers:>7} {ours:>18.0f} {theirs:>20.0f} {spread:>18}", flush=True)


if __name__ == "__main__":
    main()
