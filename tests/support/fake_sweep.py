"""A made-up sweep in real row types: a hump at noise 1e-2, a collapse beyond 5e-2 and a few diverged pairs."""

import math
import random
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from dashboards.data.runs import Run
from sweeper.storage import tables as store
from trainables.noise import predict_all
from trainables.result import HistoryRow, MergeRow, PairOutput, TrialResult
from trainables.spec import digest_of

BEST_NOISE = 1e-2
EXAMPLES = 720
PARENT_LOSS = 0.30


_TEXT = "protocol pair_kind dataset model optimizer augmentation device host commit torch python"
_CONSTANT: dict[str, object] = dict.fromkeys(_TEXT.split(), "x") | {
    "epochs": 8,
    "steps": 360,
    "examples": EXAMPLES,
    "classes": 10,
    "parameters": 14000,
    "distance": 1.0,
    "task_cosine": 0.5,
    "norm_a": 3.0,
    "norm_b": 3.0,
    "wd_relaxation": 0.1,
    "chosen_merge": "linear",
    "chosen_coefficient": 0.5,
    "members": 2,
    "dataset_b": "",
    "branch_step": 0,
    "precision": "float32",
    "ranks": 1,
    "warnings": "",
    "threads": 1,
    "stack": 1,
    "device_seconds": 2.5,
    "started": "2025-01-01T00:00:00+00:00",
    "version": "0.1.0",
    "spec": "{}",
    "space": "fake_space",
    "sampler": "random",
}


def gain_at(noise: float) -> float:
    """The true loss gain: a hump of .05 nat in log noise, minus a cliff."""
    z = math.log(noise / BEST_NOISE)
    return 0.05 * math.exp(-(z**2) / 2) - 2.0 * max(0.0, math.log(noise / 5e-2)) ** 2


def knobs_of(number: int, seed: int = 0) -> dict[str, float]:
    draw = random.Random(f"{seed}/{number}")
    return {
        "learning_rate": 10 ** draw.uniform(-2.7, 0.4),
        "batch_size": 2 ** draw.randint(3, 7),
        "momentum": draw.choice([0.0, 0.5, 0.9, 0.95]),
        "weight_decay": 10 ** draw.uniform(-5, -1.5),
        "augmentation_strength": draw.random(),
    }


def _scores(gain: float, wobble: float) -> dict[str, float]:
    scores: dict[str, float] = {}
    for split, shift in (("train", -0.1), ("val", 0.0), ("test", 0.01)):
        a, b = PARENT_LOSS + shift + wobble, PARENT_LOSS + shift - wobble
        merged = (a + b) / 2 - gain
        for who, loss in {
            "a": a,
            "b": b,
            "merged": merged,
            "chosen": merged - 0.002,
            "ensemble": merged - 0.01,
        }.items():
            scores[f"{who}_loss_{split}"] = loss
            scores[f"{who}_accuracy_{split}"] = max(0.1, 1.0 - 0.2 * loss)
        for kind, parent in (("mean", (a + b) / 2), ("best", min(a, b))):
            scores[f"gain_{kind}_loss_{split}"] = parent - merged
            scores[f"gain_{kind}_accuracy_{split}"] = 0.2 * (parent - merged)
        for kind in ("frankle", "entezari"):
            scores[f"barrier_{kind}_loss_{split}"] = max(0.0, -gain)
            scores[f"barrier_{kind}_error_{split}"] = max(0.0, -0.2 * gain)
    return scores


def trial(number: int, repeat: int = 0, seed: int = 0, trainable: str = "pair", **more: object) -> PairOutput:
    """One trial; pairs beyond noise .3 have diverged. `more` replaces fields of the result."""
    knobs = knobs_of(number, seed)
    draw = random.Random(f"{seed}/{number}/{repeat}/noise")
    noises = predict_all({**knobs, "examples": EXAMPLES})
    diverged = noises["paper"] > 0.3
    gain = gain_at(noises["paper"]) + draw.gauss(0, 0.004)
    scores = {} if diverged else _scores(gain, 0.01)
    config = digest_of({"number": number, "seed": seed})
    digest = digest_of({"config": config, "repeat": repeat})
    detail = "the loss became nan in step 7" if diverged else ""
    fields: dict[str, object] = (
        _CONSTANT
        | knobs
        | {
            "digest": digest,
            "config": config,
            "repeat": repeat,
            "seed": seed,
            "number": number,
            "sweep_seed": seed,
            "outcome": "diverged" if diverged else "ok",
            "outcome_detail": detail,
            "trainable": trainable,
            "scores": scores,
            "noises": noises,
        }
    )
    result = TrialResult(**(fields | more))  # type: ignore[arg-type]
    return PairOutput(result, () if diverged else _merges(result, gain), _history(result))


def at_knobs(number: int, repeat: int = 0, scatter: float = 0.0, **knobs: float) -> PairOutput:
    """One viable trial at the given knobs, its gain on the true curve plus `scatter`."""
    noises = predict_all({**knobs_of(number), **knobs, "examples": EXAMPLES})
    scores = _scores(gain_at(noises["paper"] or 1.0) + scatter, 0.01)
    return trial(number, repeat, outcome="ok", outcome_detail="", noises=noises, scores=scores, **knobs)


def run_of(outputs: Iterable[PairOutput], objective: str = "gain_mean", **settings: object) -> Run:
    """A run in memory, of these trials."""
    outputs = list(outputs)
    tables = {
        "trials": pa.Table.from_pylist([o.result.to_row() for o in outputs], schema=store.SCHEMAS["trials"]),
        "merges": _table("merges", [m for o in outputs for m in o.merges]),
        "planes": _table("planes", [p for o in outputs for p in o.plane]),
        "search": _table("search", []),
    }
    given = {"space": "fake_space", "objective": objective, "noise": "paper", "trials": len(outputs), **settings}
    return Run("fake", uuid.uuid4().hex, given, None, tables)


def _table(name: str, rows: Iterable[Any]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=store.SCHEMAS[name])


def _merges(result: TrialResult, gain: float) -> tuple[MergeRow, ...]:
    rows: list[MergeRow] = []
    for method, top in (("linear", 1.0), ("task_arithmetic", 1.5)):
        for i in range(11):
            c = top * i / 10
            dip = 4 * c * (1 - c) if method == "linear" else 1 - (2 * (c - 0.5)) ** 2
            loss = PARENT_LOSS + 0.01 - gain * dip
            scores = {f"loss_{s}": loss for s in ("train", "val", "test")}
            scores |= {f"accuracy_{s}": 1 - 0.2 * loss for s in ("train", "val", "test")}
            raw = dict.fromkeys(("raw_loss_val", "raw_loss_test", "raw_accuracy_val", "raw_accuracy_test"))
            rows.append(MergeRow(result.digest, result.config, method, c, **scores, **raw))
    return tuple(rows)


def _history(result: TrialResult) -> tuple[HistoryRow, ...]:
    s = result.noises["paper"] or 0.0
    return tuple(
        HistoryRow(result.digest, member, epoch, 45 * epoch, result.learning_rate, s, 1 / epoch, 1 / epoch, 0.9)
        for member in "ab"
        for epoch in range(1, 9)
    )


def search_row(number: int, seed: int = 0) -> store.SearchRow:
    noise = predict_all({**knobs_of(number, seed), "examples": EXAMPLES})["paper"]
    known = number >= 8
    spread = 1 + 20 / (number + 1)
    return store.SearchRow(
        number=number,
        config=digest_of({"number": number, "seed": seed}),
        params="{}",
        sampler="noise",
        origin="level_set" if known else "startup",
        noise_target=noise,
        optimum=BEST_NOISE * (1 + 1 / (number + 1)) if known else None,
        optimum_low=BEST_NOISE / spread if known else None,
        optimum_high=BEST_NOISE * spread if known else None,
        exponents=None,
        seconds_ask=0.01,
    )


def write_sweep(run: Path, trials: int = 60, repeats: int = 1, budget: int = 60, **more: object) -> Path:
    """Write a whole run folder and return it; `more` is passed to every `trial`."""
    run.mkdir(parents=True, exist_ok=True)
    settings = {"space": "fake_space", "trials": budget, "sampler": "noise", "objective": "gain_mean", "noise": "paper"}
    (run / "sweep.yaml").write_text(yaml.safe_dump({**settings, "seed": 0, "repeats": repeats}))
    for number in range(trials):
        store.write_search(run, search_row(number))
        for repeat in range(repeats):
            store.write(run, trial(number, repeat, **more))
    return run
