"""Protocol scratch: children of different initial weights, and the bases that are trained for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.small_trials import digits_spec
from trainables.measurement.monitor import Watch
from trainables.pair import children as children_module
from trainables.pair import setup
from trainables.pair.children import Children
from trainables.pair.run import run_pair
from trainables.pair.rungs import Rungs
from trainables.pair.setup import Lab, prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.training import base as base_module
from trainables.training.base import own_base, train_base
from trainables.training.legs import child_leg

QUIET = Runtime(measure=0)
SPEC = digits_spec(batch_size=64, base={"steps": 5})
SCRATCH = replace(SPEC, protocol="scratch", merges=("linear",))


def test_children_from_scratch_start_at_weights_of_their_own() -> None:
    starts = [_starts(replace(SCRATCH, repeat=i, base=replace(SPEC.base, steps=0))) for i in (0, 0, 1)]
    flat = [s["features.3.weight"].flatten() for trial in starts for s in trial]
    assert torch.equal(flat[0], flat[2])
    assert torch.equal(flat[1], flat[3])
    for one in (0, 1, 4, 5):
        for other in (0, 1, 4, 5):
            assert one == other or float(torch.corrcoef(torch.stack([flat[one], flat[other]]))[0, 1].abs()) < 0.1
    trained = _starts(SCRATCH)
    assert not torch.equal(trained[0]["head.weight"], starts[0][0]["head.weight"])


def test_bases_of_children_from_scratch_take_time_of_their_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def train(*about: Any) -> dict[str, torch.Tensor]:
        now[0] += 100.0
        return own_base(*about)

    monkeypatch.setattr(children_module, "own_base", train)
    monkeypatch.setattr(setup, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    row = run_pair(SCRATCH, QUIET).result
    assert (row.seconds["base"], row.seconds["train"], row.step_seconds) == (200.0, 0.0, 0.0)


def test_no_shared_base_is_trained_that_no_child_from_scratch_starts_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained: list[int] = []

    def train(spec: PairSpec, *about: Any) -> Any:
        trained.append(spec.base.seed)
        return train_base(spec, *about)

    monkeypatch.setattr(base_module, "train_base", train)
    folder = str(tmp_path)
    run_pair(SCRATCH, Runtime(measure=0, bases=folder))
    assert len(set(trained)) == len(trained) == 2  # those of the children
    assert SPEC.base.seed not in trained
    assert list(tmp_path.iterdir()) == []
    measuring = Runtime(measure=1, bases=folder)
    rows = [run_pair(replace(SCRATCH, repeat=i), measuring).result for i in (0, 1)]
    # the probe needs the base that all trials share, once
    assert trained.count(SPEC.base.seed) == 1
    assert len(trained) == 2 + 3 + 2
    shared = run_pair(SPEC, Runtime(measure=1)).result
    assert [r.trace_sigma_base for r in rows] == [shared.trace_sigma_base] * 2
    assert [r.k_aug for r in rows] == [shared.k_aug] * 2


def test_the_time_of_the_probe_s_base_counts_as_base(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def train(*about: Any) -> Any:
        now[0] += 100.0
        return train_base(*about)

    spec = replace(SCRATCH, base=replace(SPEC.base, seed=9))
    monkeypatch.setattr(base_module, "train_base", train)
    monkeypatch.setattr(setup, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    row = run_pair(spec, Runtime(measure=1)).result
    assert (row.seconds["base"], row.seconds["measure"]) == (300.0, 0.0)


def _starts(spec: PairSpec) -> list[dict[str, torch.Tensor]]:
    lab = prepare(spec, QUIET)
    children = Children([spec], lab, _no_watch(spec, lab), Rungs([spec], lab, 0), lambda _: None)
    children.open()
    return [dict(c.training.start) for c in children.courses]


def _no_watch(spec: PairSpec, lab: Lab) -> Watch:
    legs = [child_leg(s, d.examples) for s, d in zip(spec.child_specs(), lab.data, strict=True)]
    return Watch(spec.child_specs(), lab.children, lab.data, legs, 0, lab.clock.phase)


def test_children_from_scratch_are_far_apart_and_repeat() -> None:
    spec = replace(SCRATCH, epochs=4)
    one, again, near = (run_pair(s, QUIET).result for s in (spec, spec, replace(spec, protocol="finetune")))
    assert one.protocol == "scratch"
    assert one.scores == again.scores
    assert one.distance > 3 * near.distance
    assert one.task_cosine is None
    assert one.scores["barrier_frankle_loss_test"] > near.scores["barrier_frankle_loss_test"] + 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merges": ("linear", "task_arithmetic")}, "must not use a base in protocol scratch.*'task_arithmetic'; set"),
        ({"weights": "file.pt"}, "weights must be empty in protocol scratch: children draw their weights"),
        ({"adapter": {"kind": "lora"}}, "adapter must be empty in protocol scratch"),
        ({"stack": 2}, "stack must be 1 in protocol scratch"),
        (
            {"model": "hf:folder", "base": {"steps": 0}},
            "base.steps must be > 0 in protocol scratch with a model folder, whose children would start alike, got 0; "
            "use protocol finetune",
        ),
    ],
)
def test_what_needs_a_common_start_is_refused_from_scratch(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SCRATCH, **changes)
