"""Short trainings of every kind give the numbers that an earlier version gave."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.trial import run_trials

GOLDEN = Path(__file__).parents[3] / "data" / "trained.json"
ROWS: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
MERGES = ["linear", "task_arithmetic", "ties", "dare", "slerp", "fisher", "uniform_soup"]
COMMON: dict[str, Any] = {
    "dataset": "digits", "model": "small_cnn", "learning_rate": 0.05, "batch_size": 32, "momentum": 0.9,
    "weight_decay": 1e-3, "steps": 12, "base": {"steps": 8}, "seed": 3,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "merges": {"merges": MERGES},
    "members": {"members": 3, "merges": ["linear", "ties", "uniform_soup"]},
    "branch": {"protocol": "branch", "branch_step": 15, "base": {"steps": 0}, "schedule": "cosine"},
    "split_data": {"pair_kind": "split_data", "clip_norm": 0.5, "freeze": ["*bias*"]},
    "stack": {"stack": 3, "repeat": 1, "augmentation": "shift+mixup", "augmentation_strength": 0.5},
    "adamw": {"optimizer": "adamw", "momentum": 0.0, "learning_rate": 3e-3, "augmentation": "randaugment"},
    "label_noise": {"dataset_options": {"label_noise": 0.2}, "optimizer_options": {"nesterov": True}},
    "float64": {"dtype": "float64"},
}
PARTS = ("a_loss_val", "b_loss_val", "merged_loss_val", "merged_loss_test", "chosen_loss_test", "ensemble_loss_val")


def train(kind: str) -> dict[str, Any]:
    """Return what a training of this kind measures."""
    spec = PairSpec.from_mapping({**COMMON, **KINDS[kind]})
    (output,) = run_trials([spec], Runtime(measure=3, rungs=2))
    result = output.result
    noise = result.noises.get("paper") or result.noises["adam_sde"]
    return {
        "digest": result.digest,
        "outcome": result.outcome,
        "scores": [result.scores.get(name) for name in PARTS],
        "measured": [result.distance, result.trace_sigma, result.gradient_norm2, noise],
        "merges": [row.loss_val for row in output.merges],
        "history": [row.val_loss for row in output.history],
        "rungs": [row.merged_loss_val for row in output.rungs],
        "weights": sum(float(t.double().abs().sum()) for t in (output.weights or {}).values()),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_gives_the_same_numbers(kind: str) -> None:
    again, golden = train(kind), ROWS[kind]
    assert (again.pop("digest"), again.pop("outcome")) == (golden["digest"], golden["outcome"])
    for name, value in again.items():
        # processors round differently
        assert value == pytest.approx(golden[name], rel=1e-3, abs=1e-6), name


if __name__ == "__main__":  # with the version whose numbers are to stay
    sys.stdout.write(json.dumps({kind: train(kind) for kind in KINDS}, indent=1) + "\n")
