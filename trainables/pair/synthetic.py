"""Synthetic trials: a closed form with a known best noise, for sweeps in seconds without torch.

The functions have the signatures of `trainables.pair.run` but train nothing and read no data. The rows have
`trainable = synthetic`. Each trial sleeps `SWEEPER_SYNTHETIC_SECONDS` seconds, which helps to measure the overhead.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from trainables.noise import NOISE
from trainables.pair.record import make_pruned_output, now, record
from trainables.result import SPLITS, HistoryRow, MergeRow, Outcome, PairOutput, RungRow
from trainables.runtime import Report, Runtime, Stop
from trainables.spec import PairSpec
from trainables.training.schedules import rung_steps

BEST_NOISE = 1e-2
EXAMPLES = 720
PARENT_LOSS = 0.20
PEAK_GAIN = 0.05
STABILITY_LIMIT = 20.0  # of eta / (1 - mu)
UNANNEALED = 0.08  # loss at `BEST_NOISE` that the anneal removes [nat]; proportional to the root of the noise
SECONDS = "SWEEPER_SYNTHETIC_SECONDS"
_PLAIN = {
    "augmentation": {"none", "shift"},
    "optimizer": {"sgd"},
    "schedule": {"wsd"},
    "merges": {"linear", "task_arithmetic"},
}
ALPHAS = tuple(i / 10 for i in range(11))


def expected_gain(noise: float) -> float:
    """Return the expected loss gain [nat] at a noise: a peak at `BEST_NOISE` and a cliff above 8e-2."""
    z = math.log(noise / BEST_NOISE)
    return PEAK_GAIN * math.exp(-0.5 * (z / 1.2) ** 2) - 2.0 / (1.0 + math.exp(-6.0 * (math.log(noise / 8e-2))))


def inspect(specs: Sequence[PairSpec], runtime: Runtime) -> int:
    """Return the number of training examples of the closed form.

    Raises:
        UnknownName: The closed form ignores these names, but one of them is misspelt.
    """
    for spec in specs:
        # other names need torch to be checked; a file of the user's may register further ones
        if not spec.source and any(not set(_listed(getattr(spec, k))) <= known for k, known in _PLAIN.items()):
            from trainables.pair.setup import check_names

            check_names(spec)
    return EXAMPLES


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value


def run_pairs(
    specs: Sequence[PairSpec],
    runtime: Runtime,
    report: Report = lambda _: None,
    peers: Sequence[Sequence[Any]] = (),
) -> list[PairOutput]:
    """Return the output of the closed form for each spec; its random part depends on the spec's digest."""
    return [_run(spec, replace(runtime, device="cpu"), report) for spec in specs]


def _run(spec: PairSpec, runtime: Runtime, report: Report) -> PairOutput:
    started = now()
    time.sleep(float(os.environ.get(SECONDS, "0")))
    steps = EXAMPLES // spec.batch_size * spec.epochs
    about: dict[str, Any] = {"examples": EXAMPLES, "steps": steps, "classes": 10}
    if spec.learning_rate / (1 - spec.momentum) > STABILITY_LIMIT:
        detail = f"eta/(1 - mu) is above the closed form's limit of {STABILITY_LIMIT}"
        return PairOutput(record(spec, runtime, Outcome.DIVERGED, detail, started, **about))
    rng = random.Random(spec.stream("synthetic"))
    noise = NOISE["paper"].predict(
        {"learning_rate": spec.learning_rate, "batch_size": spec.batch_size, "momentum": spec.momentum}
    )
    parents = PARENT_LOSS - 0.03 * spec.augmentation_strength + 0.02 * abs(math.log10(spec.weight_decay + 1e-6) + 3)
    scores: dict[str, float | None] = {}
    curves: dict[str, dict[float, float]] = {}
    for split in SPLITS:
        a, b = (parents + rng.gauss(0, 0.004) for _ in "ab")
        gain = expected_gain(noise) + rng.gauss(0, 0.004)
        line = {t: (1 - t) * a + t * b - 4 * t * (1 - t) * gain for t in ALPHAS}
        curves[split] = line
        scores |= _columns(split, line)
    rungs: list[RungRow] = []
    for rung in _rungs(spec, steps, runtime.rungs, noise, curves["val"][0.5]):
        rungs.append(rung)
        ended = record(spec, runtime, Outcome.PRUNED, "", started, pruned_step=rung.step, **about)
        output = PairOutput(ended, rungs=tuple(rungs))
        try:
            report({f.name: getattr(rung, f.name) for f in fields(rung)} | {"outputs": [output]})
        except Stop as stop:
            return make_pruned_output(output, str(stop))
    epochs = {"epoch": spec.epochs, "epochs": spec.epochs}
    report({"repeat": spec.repeat, "member": "a", **epochs, "val_loss": scores["a_loss_val"]})
    best = min(ALPHAS, key=lambda t: curves["val"][t])
    for split in SPLITS:
        loss = curves[split][best]
        scores |= {f"chosen_loss_{split}": loss, f"chosen_accuracy_{split}": _accuracy(loss)}
    result = record(
        spec, runtime, Outcome.OK, "closed form", started, scores=scores, chosen_merge="linear",
        chosen_coefficient=best, **about,
    )  # fmt: skip
    rows = [
        MergeRow(
            digest=spec.digest,
            config=spec.config,
            method="linear",
            coefficient=t,
            **{f"loss_{s}": curves[s][t] for s in SPLITS},
            **{f"accuracy_{s}": _accuracy(curves[s][t]) for s in SPLITS},
            **{f"raw_{what}_{s}": None for what in ("loss", "accuracy") for s in ("val", "test")},
        )
        for t in ALPHAS
    ]
    history = [
        HistoryRow(spec.digest, m, spec.epochs, steps, spec.learning_rate, noise, None, scores[f"{m}_loss_val"], None)
        for m in "ab"
    ]
    return PairOutput(result, tuple(rows), tuple(history), rungs=tuple(rungs))


def _rungs(spec: PairSpec, steps: int, rungs: int, noise: float, final: float) -> Iterator[RungRow]:
    rng = random.Random(spec.stream("synthetic/rungs"))
    per_epoch = max(1, EXAMPLES // spec.batch_size)
    for rung, step in enumerate(rung_steps(steps, per_epoch, rungs), 1):
        # before the end, a pair of high noise looks worse than its final score
        left = UNANNEALED * math.sqrt(noise / BEST_NOISE) * (1 - step / steps)
        loss = final + left + rng.gauss(0, 0.004)
        yield RungRow(
            spec.digest, spec.config, spec.repeat, rung, step, steps, math.ceil(step / per_epoch), loss,
            _accuracy(loss), 0.0,
        )  # fmt: skip


def _accuracy(loss: float) -> float:
    return math.exp(-max(loss, 0.0))


def _columns(split: str, line: dict[float, float]) -> dict[str, float | None]:
    a, b, merged = line[0.0], line[1.0], line[0.5]
    accuracy = {"a": _accuracy(a), "b": _accuracy(b), "merged": _accuracy(merged)}
    error = {t: 1 - _accuracy(v) for t, v in line.items()}
    out: dict[str, float | None] = {f"{who}_accuracy_{split}": v for who, v in accuracy.items()}
    out |= {f"a_loss_{split}": a, f"b_loss_{split}": b, f"merged_loss_{split}": merged}
    out |= {f"ensemble_loss_{split}": min(a, b), f"ensemble_accuracy_{split}": max(accuracy.values())}
    out[f"gain_mean_loss_{split}"] = (a + b) / 2 - merged
    out[f"gain_best_loss_{split}"] = min(a, b) - merged
    out[f"gain_mean_accuracy_{split}"] = accuracy["merged"] - (accuracy["a"] + accuracy["b"]) / 2
    out[f"gain_best_accuracy_{split}"] = accuracy["merged"] - max(accuracy["a"], accuracy["b"])
    for what, curve in (("loss", line), ("error", error)):
        ends = curve[0.0], curve[1.0]
        out[f"barrier_frankle_{what}_{split}"] = max(curve.values()) - sum(ends) / 2
        out[f"barrier_entezari_{what}_{split}"] = max(v - ((1 - t) * ends[0] + t * ends[1]) for t, v in curve.items())
    return out
