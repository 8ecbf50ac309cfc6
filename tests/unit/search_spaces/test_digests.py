"""Digests and seeds of 200 trials stay what an earlier version made of them."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import search_spaces
from trainables.spec import PairSpec

GOLDEN = Path(__file__).parents[2] / "data" / "digests.json"
SEEDS = ("data", "landscape", "member/0", "merge")
ROWS: list[dict[str, Any]] = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else []

VARIANTS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 1.0, "schedule": "cosine"},
    {"optimizer": "adamw", "momentum": 0.0, "beta1": 0.95, "beta2": 0.99},
    {"optimizer": "sgd", "optimizer_options": {"nesterov": True}},
    {"protocol": "branch", "branch_step": 20, "steps": 100, "pair_kind": "same_task", "dataset_b": ""},
    {"protocol": "finetune", "branch_step": 0, "pair_kind": "split_data", "dataset_b": "", "decay": 0.5},
    {"pair_kind": "two_task", "dataset_b": "mnist", "protocol": "finetune", "branch_step": 0},
    {"pair_kind": "same_task", "dataset_b": "", "members": 5, "merges": ["linear", "ties", "dare", "uniform_soup"]},
    {"merges": ["linear", "slerp", "fisher", "task_arithmetic"], "accuracy_floor": 0.25},
    {"freeze": ["layer1.*", "head*"], "weights": "base.safetensors"},
    {"dtype": "float64", "autocast": ""},
    {"dtype": "float32", "autocast": "bfloat16", "compile": True},
    {"dataset_options.train": 300, "model_options.width": 4},
    {"base.steps": 7, "base.learning_rate": 0.5, "base.seed": 9, "warmup": 0.1, "decay": 0.9},
    {"source": "# a user's own file\n", "epochs": 3, "steps": 0},
    {"augmentation": "crop_flip+mixup", "augmentation_strength": 1.0},
]


def value_of(distribution: Any, draw: random.Random) -> Any:
    """Return a value that a knob may take."""
    if hasattr(distribution, "choices"):
        return draw.choice(distribution.choices)
    if isinstance(distribution.low, int):
        return draw.randint(distribution.low, distribution.high)
    return distribution.low * (distribution.high / distribution.low or 1) ** draw.random() if distribution.log else (
        draw.uniform(distribution.low, distribution.high)
    )  # fmt: skip


def draw_rows(number: int) -> list[dict[str, Any]]:
    """Return trials of all spaces and variants in turn: how each is built, and its digests and seeds."""
    draw = random.Random(20261129)
    rows: list[dict[str, Any]] = []
    while len(rows) < number:
        name = draw.choice(search_spaces.names())
        fixed = draw.choice(VARIANTS)
        space = search_spaces.load(name).override({}, fixed)
        knobs = {knob: value_of(distribution, draw) for knob, distribution in space.knobs.items()}
        more: dict[str, Any] = {"seed": draw.randrange(1000), "repeat": draw.randrange(8), "stack": draw.choice([1, 4])}
        row = {"space": name, "fixed": fixed, "knobs": knobs, "more": more}
        try:
            rows.append({**row, "digests": digests_of(build(row))})
        except ValueError:
            continue  # the variant does not fit the space
    return rows


def build(row: dict[str, Any]) -> PairSpec:
    """Return the trial of a row."""
    return search_spaces.load(row["space"]).override({}, row["fixed"]).build(row["knobs"], **row["more"])


def digests_of(spec: PairSpec) -> list[Any]:
    """Return the digests of a trial, then its seeds."""
    digests = [spec.digest, spec.config, spec.base_digest, spec.trunk_digest]
    return [*digests, *(spec.stream(role) for role in SEEDS)]


def test_digests_and_seeds_stay() -> None:
    assert len({row["digests"][0] for row in ROWS}) == 200
    assert [row["space"] for row in ROWS if digests_of(build(row)) != row["digests"]] == []


def test_a_stored_spec_has_the_digest_that_it_had() -> None:
    for row in ROWS:
        assert digests_of(PairSpec.from_json(build(row).to_json())) == row["digests"]


if __name__ == "__main__":  # with the version whose digests are to stay
    sys.stdout.write("[\n" + ",\n".join(json.dumps(row) for row in draw_rows(200)) + "\n]\n")
