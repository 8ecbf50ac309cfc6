"""Small data, models and specs that the tests of trainables share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Generator, nn

from tests.support.waiting import PATIENCE
from trainables.datasets.load import Data
from trainables.models.seeding import seed_generators
from trainables.spec import PairSpec

ROOT = Path(__file__).parents[2]


def digits_spec(**changes: Any) -> PairSpec:
    """One cheap trial on digits: 1 epoch from a base of 10 steps."""
    settings: dict[str, Any] = {
        "dataset": "digits",
        "model": "small_cnn",
        "learning_rate": 0.05,
        "batch_size": 32,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "augmentation": "shift",
        "augmentation_strength": 0.5,
        "epochs": 1,
        "base": {"steps": 10},
    }
    return PairSpec(**{**settings, **changes})


def random_data(
    train: int = 64,
    channels: int = 1,
    size: int = 8,
    classes: int = 10,
    spoil: Callable[[torch.Tensor], object] = lambda x: None,
) -> Data:
    """Random float64 images and labels; `spoil` may change the training images."""
    g, counts = Generator().manual_seed(0), {"train": train, "val": 20, "test": 30}
    x = {s: torch.randn(n, channels, size, size, generator=g, dtype=torch.float64) for s, n in counts.items()}
    spoil(x["train"])
    return Data(x, {s: torch.randint(classes, (n,), generator=g) for s, n in counts.items()}, classes)


def linear_model(inputs: int = 64, classes: int = 10) -> nn.Module:
    """Softmax regression in float64, all weights 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).double()
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    return model


def built(builder: Callable[[], nn.Module], seed: int = 7) -> nn.Module:
    """A module in float64 whose weights depend on the seed alone."""
    with seed_generators(seed):
        return builder().double()


def python(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python in the repository's root."""
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, env={"PATH": "", "OMP_NUM_THREADS": "1", **env},
        capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def same(a: Any, b: Any, leave_out: tuple[str, ...] = ()) -> bool:
    """Whether two rows are equal field by field."""
    return all(getattr(a, f.name) == getattr(b, f.name) for f in fields(a) if f.name not in leave_out)
