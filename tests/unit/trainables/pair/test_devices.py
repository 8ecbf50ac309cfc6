"""Whole trials on another device: the numbers of the CPU, and one model on the device at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.another_device import Counter, another_device
from trainables.measurement import monitor
from trainables.merging.methods import BY_SCORE, MERGES, TASKWISE
from trainables.pair.run import run_pair
from trainables.pair.setup import Clock, inspect
from trainables.result import PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.training import base as bases
from trainables.training import optimizers

WIDTH = 13
MLP_NUMBERS, GPT_NUMBERS = 64 * WIDTH, 4 * 10 * 10
COMMON: dict[str, Any] = {
    "learning_rate": 0.1, "batch_size": 16, "momentum": 0.9, "steps": 6, "base": {"steps": 2, "batch_size": 8},
    "dataset": "digits", "model": "mlp", "model_options": {"widths": [WIDTH]},
}  # fmt: skip
ADAM: dict[str, Any] = {"optimizer": "adamw", "momentum": 0.0, "learning_rate": 0.01}
TEXT: dict[str, Any] = {
    "dataset": "sentences", "dataset_options": {"context": 8, "train": 64, "val": 16, "test": 16}, "model": "gpt",
    "model_options": {"layers": 1, "width": 10, "heads": 2, "attention": "eager"},
}  # fmt: skip
SPECS: dict[str, dict[str, Any]] = {
    "pair": {},
    "members": {**ADAM, "members": 4, "window": {"size": 2}},
    "branch": {"protocol": "branch", "branch_step": 3, "model_options": {"widths": [WIDTH], "norm": "batch"}},
    "scratch": {"protocol": "scratch"},
    "tasks": {
        "pair_kind": "tasks", "dataset": "",
        "datasets": ["digits", *({"name": "digits", "options": {"split_seed": i}} for i in (1, 2))],
    },
    "text": {**TEXT, **ADAM, "members": 3},
    "adapters": {**TEXT, "adapter": {"kind": "lora", "r": 2}},
}  # fmt: skip
OF_ADAM, OF_UNITS = {"fisher_adam"}, {"weight_matching", "weight_matching_repair"}
OF_BASE = {n for n, m in MERGES.items() if m.uses_base} | {TASKWISE}
REFUSED: dict[str, set[str]] = {
    "pair": OF_ADAM, "members": set(), "branch": OF_ADAM, "scratch": OF_ADAM | OF_BASE,
    "tasks": OF_ADAM | OF_UNITS | {"slerp"}, "text": OF_UNITS, "adapters": OF_ADAM | OF_UNITS,
}  # fmt: skip
"""Merges that do not apply; each kind runs all others of the registry."""
SGD, ADAMW = 5, 6
"""Sets in training: weights, gradients, momentum or moments, and up to two that a step needs."""


def _run(spec: PairSpec, runtime: Runtime) -> PairOutput:
    for cache in (bases._BASES, bases._TRUNKS):  # pyright: ignore[reportPrivateUsage]
        cache.clear()
    return run_pair(spec, runtime)


def _shorten_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, merge in MERGES.items():
        few = merge.grid[:: max(1, len(merge.grid) // 2)]
        monkeypatch.setitem(MERGES._items, name, replace(merge, grid=few))  # pyright: ignore[reportPrivateUsage]


def _spec_of(kind: str, merges: Iterable[str]) -> PairSpec:
    return PairSpec.from_mapping({**COMMON, **SPECS[kind], "merges": list(dict.fromkeys(["linear", *merges]))})


@pytest.mark.parametrize("kind", SPECS)
def test_merges_that_do_not_apply_are_refused(kind: str) -> None:
    if "adapter" in SPECS[kind]:
        pytest.importorskip("peft")
    for name in REFUSED[kind]:
        said = "must not use a base" if name in OF_BASE else "weight.matching" if name in OF_UNITS else name
        with pytest.raises(ValueError, match=said):
            inspect([_spec_of(kind, [name])], Runtime())


def _count_by_phase(monkeypatch: pytest.MonkeyPatch, counter: Counter) -> None:
    phase = Clock.phase

    @contextmanager
    def named(self: Clock, name: str) -> Iterator[None]:
        before, counter.phase = counter.phase, name
        with phase(self, name):
            counter.note()
            yield
        counter.phase = before

    def gradients(*args: Any, **settings: Any) -> Any:
        before, counter.phase = counter.phase, "gradients"
        counter.note()
        statistics = measure(*args, **settings)
        counter.phase = before
        return statistics

    measure = monitor.measure
    monkeypatch.setattr(monitor, "measure", gradients)
    monkeypatch.setattr(Clock, "phase", named)


@pytest.mark.parametrize("kind", SPECS)
def test_a_trial_holds_one_model_on_the_device(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = _spec_of(kind, [n for n in (*MERGES, *BY_SCORE) if n not in REFUSED[kind]])
    if spec.is_language_model:
        pytest.importorskip("peft")
    runtime = Runtime(measure=1, rungs=1, landscape=kind in ("pair", "branch", "tasks"))
    _shorten_grids(monkeypatch)
    monkeypatch.setattr(optimizers, "_FUSED", ())  # fused kernels round differently
    here = _run(spec, runtime)
    assert here.result.outcome == "ok"
    counter = Counter(GPT_NUMBERS if spec.is_language_model else MLP_NUMBERS)
    _count_by_phase(monkeypatch, counter)
    with another_device(counter) as device:
        there = _run(spec, replace(runtime, device=device, bases=str(tmp_path)))
    assert there.result.outcome == "ok", there.result.outcome_detail
    one, other = (dict(o.result.to_row()) for o in (here, there))
    assert {k for k in one if one[k] != other[k]} <= {k for k in one if "seconds" in k} | {"device", "started"}
    assert {row.method for row in there.merges} == set(spec.merges)
    assert there.merges == here.merges
    assert [replace(r, device_seconds=0) for r in there.rungs] == [replace(r, device_seconds=0) for r in here.rungs]
    most = {phase: sets / (2 if spec.is_language_model else 1) for phase, sets in counter.most.items()}
    trained = ADAMW if spec.optimizer == "adamw" else SGD
    assert 1 <= most["train"] <= trained
    assert most["rungs"] <= trained
    assert most["measure"] <= most["train"] + 1  # one denominator of Adam in the making
    assert most["gradients"] <= 4  # the model, and the gradient of a micro-batch in the making
    assert most["base"] <= SGD
    assert most["evaluate"] == 1
    assert most["recalibrate"] == 1
    assert most.get("landscape", 0) <= 2  # the module and the point's gradient
    assert most[""] <= SGD  # of a Fisher: weights, squares and gradients
