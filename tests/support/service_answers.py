"""Answers of a service about one sweep, for `FakeService`."""

import json
from collections.abc import Callable

Sweeper = Callable[..., tuple[int, str, str]]
"""Runs a command with `--server`; returns exit code, stdout and stderr."""

FIRST = "/v1/sweeps/synthetic-1"
BEST = {"digest": "d1", "config": "c1", "objective": "gain_mean", "value": 0.031, "noise": 0.01}
WINNER = {
    "digest": "d2", "config": "c2", "noise": 0.02, "column": "gain_mean_loss_val", "config_mean": 0.03,
    "config_repeats": 2, "posterior_mean": 0.028, "posterior_sd": 0.002, "undecided": "", "luckiest": None,
    "learning_rate": 0.1, "batch_size": 8, "momentum": 0.9, "weight_decay": 0.0, "augmentation": "none",
    "augmentation_strength": 0.0, "chosen_merge": "linear", "chosen_coefficient": 0.5,
    "test": {who: {"loss": 0.3, "accuracy": 0.9} for who in ("a", "b", "parents", "merged", "chosen", "ensemble")},
}  # fmt: skip


def refused(status: int, sentence: str) -> tuple[int, str, bytes]:
    """Return the answer of a service that refuses, with its reason."""
    record = {"title": "No", "status": status, "detail": sentence}
    return status, "application/problem+json", json.dumps(record).encode()
