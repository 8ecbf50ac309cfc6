"""What a trial takes of a cluster, and whether the cluster can ever hold it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.config.prepared import prepare
from sweeper.config.resources import Resources
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.runner.jobs import Job
from sweeper.runner.preflight import fit_to_ranks
from sweeper.runner.ray_tune.placement import Layout, Node, capacity, check_fits, layout, request
from sweeper.runner.ray_tune.reattempts import Attempts
from sweeper.runner.run import _make_runtime
from sweeper.storage.location import place_of
from trainables.spec import PairSpec


def asked(**values: Any) -> Resources:
    return Resources.model_validate(values)


def nodes(*has: dict[str, float], **labels: str) -> list[Node]:
    return [Node(h, labels) for h in has]


@pytest.mark.parametrize(
    ("values", "gpus", "bundles", "ranks"),
    [
        ({}, 0, [{"CPU": 2}], 1),
        ({}, 1, [{"CPU": 2, "GPU": 1}], 1),
        ({"gpus_per_pair": 0.25}, 1, [{"CPU": 2, "GPU": 0.25}], 1),
        ({"gpus_per_pair": 0}, 1, [{"CPU": 2}], 1),
        ({"gpus_per_member": 1}, 0, [{"CPU": 2, "GPU": 1}] * 2, 1),
        ({"gpus_per_member": 2, "cpus_per_rank": 3}, 0, [{"CPU": 3, "GPU": 1}] * 4, 2),
        ({"ranks_per_member": 2, "memory_per_rank": "1GiB"}, 1, [{"CPU": 2, "memory": 2**30}] * 4, 2),
        ({"custom": {"fast_disk": 1}}, 0, [{"CPU": 2, "fast_disk": 1}], 1),
    ],
)
def test_bundles(values: dict[str, Any], gpus: float, bundles: list[dict[str, float]], ranks: int) -> None:
    found = layout(asked(**values), 2, gpus, 2)
    assert (list(found.bundles), found.ranks) == (bundles, ranks)
    assert found.members == (2 if "member" in str(values) else 0)
    placed, options = request(found)
    assert placed == ([{}, *bundles] if found.members else bundles)
    assert options == {"strategy": "PACK"}


def test_labels_stand_at_every_bundle() -> None:
    found = layout(asked(gpus_per_member=1, labels={"zone": "a"}, placement="SPREAD"), 1, 0, 3)
    assert request(found)[1] == {"strategy": "SPREAD", "bundle_label_selector": [{"zone": "a"}] * 3}


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"gpus_per_member": 1}, 3),
        ({"gpus_per_member": 1, "placement": "STRICT_PACK"}, 3),
        ({"gpus_per_member": 1, "placement": "STRICT_SPREAD"}, 3),
        ({"gpus_per_member": 2}, 1),
        ({"gpus_per_member": 2, "placement": "STRICT_PACK"}, 0),
        ({"gpus_per_pair": 0.25}, 24),
        ({"gpus_per_pair": 2}, 3),
        ({"gpus_per_pair": 4}, 0),
        ({"custom": {"fast_disk": 1}}, 0),
    ],
)
def test_as_many_trials_as_fit(values: dict[str, Any], count: int) -> None:
    three = nodes(*({"CPU": 8.0, "GPU": 2.0} for _ in range(3)))
    found = layout(asked(**values), 1, 0, 2)
    assert capacity(three, found) == count
    if count:
        check_fits(three, found)
    else:
        with pytest.raises(SpecError, match=r"the cluster can never place .*it has 3 nodes with 8 CPU, 2 GPU"):
            check_fits(three, found)


@pytest.mark.parametrize(
    ("rule", "fits"), [("a", True), ("b", False), ("!b", True), ("in(a, c)", True), ("!in(a)", False)]
)
def test_labels_choose_nodes(rule: str, fits: bool) -> None:
    found = Layout(({"CPU": 1.0},), labels={"zone": rule})
    assert bool(capacity(nodes({"CPU": 1.0}, zone="a"), found)) == fits
    if not fits:
        with pytest.raises(SpecError, match=r"no node has resources.labels = .*; it has 1 node"):
            check_fits(nodes({"CPU": 1.0}, zone="a"), found)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"gpus_per_pair": 1, "gpus_per_member": 1}, "give gpus_per_pair .* or gpus_per_member, not both"),
        ({"gpus_per_pair": 1.5}, "gpus_per_pair must be a fraction up to 1 or a whole number, got 1.5"),
        (
            {"gpus_per_member": 2, "ranks_per_member": 3},
            "ranks_per_member must be gpus_per_member: leave it out",
        ),
        ({"gpus_per_membre": 2}, "unknown key 'gpus_per_membre'.*gpus_per_member"),
        ({"placement": "PACKED"}, "placement"),
        ({"custom": {"GPU": 1}}, "custom must give amounts > 0 of resources other than CPU"),
        ({"memory_per_rank": "much"}, "must be an amount of memory"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why):
        SweepSpec.checked({"space": "synthetic", "resources": values})


def test_threads_need_their_cpus() -> None:
    with pytest.raises(SpecError, match=r"resources.cpus_per_rank must be at least threads = 4, got 2"):
        layout(asked(cpus_per_rank=2), 4, 0, 2)


@pytest.mark.parametrize(
    ("values", "device"),
    [
        ({}, "auto"),
        ({"gpus_per_pair": 0.5}, "auto"),
        ({"gpus_per_member": 2}, "auto"),
        ({"gpus_per_pair": 0}, "cpu"),
        ({"ranks_per_member": 2}, "cpu"),
    ],
)
def test_trials_without_gpus_of_their_own_take_none(values: dict[str, Any], device: str, tmp_path: Path) -> None:
    spec = SweepSpec.checked({"space": "synthetic", "resources": values})
    assert _make_runtime(spec, place_of(tmp_path)).device == device


def test_resources_change_neither_the_sweep_nor_its_file() -> None:
    plain = SweepSpec.checked({"space": "synthetic"})
    other = SweepSpec.checked({"space": "synthetic", "resources": {"ranks_per_member": 2}, "checkpoint_steps": 7})
    assert plain.identity() == other.identity()
    assert "resources" not in plain.to_yaml()


def test_a_lost_job_comes_again_after_longer_and_longer_pauses() -> None:
    now = [0.0]
    attempts = Attempts(3, clock=lambda: now[0])
    spec = PairSpec(dataset="digits", model="small_cnn", learning_rate=0.1, batch_size=32)
    job = Job(0, (spec,), {})
    pauses = []
    while attempts.retry(job):
        start = now[0]
        while attempts.pop_due() is None:
            assert attempts.waiting
            now[0] += 0.5
        pauses.append(now[0] - start)
    assert pauses == [1, 2, 4]
    assert attempts.waiting == []
    assert not Attempts(0).retry(job)


@pytest.mark.parametrize(("repeats", "sizes", "stack"), [(4, [16, 64], "off"), (4, [64], "auto"), (3, [16], "auto")])
def test_children_apart_change_only_sweeps_that_would_stack(repeats: int, sizes: list[int], stack: str) -> None:
    values = {"space": "digits_cnn", "repeats": repeats, "resources": {"ranks_per_member": 1}}
    spec = SweepSpec.checked({**values, "parameters": {"batch_size": {"values": sizes}}})
    assert fit_to_ranks(prepare(spec)).spec.stack == stack


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"resources": {"ranks_per_member": 3}}, r"multiple of the 3 processes .* range holds others: give its values"),
        ({"resources": {"ranks_per_member": 3}, "fixed": {"batch_size": 32}}, r"ranks_per_member\), got 32"),
        ({"resources": {"ranks_per_member": 1}, "runner": "inline"}, r"ranks_per_member needs runner ray, got inline"),
        ({"resources": {"ranks_per_member": 1}, "stack": "on", "repeats": 2}, r"use --stack off"),
        (
            {"resources": {"ranks_per_member": 1}, "device": "cuda"},
            r"device 'cuda' needs GPUs, and resources.ranks_per_member: 1 reserves none: give .* or --device cpu",
        ),
        ({"resources": {"gpus_per_pair": 0}, "device": "cuda:1"}, r"resources.gpus_per_pair: 0 reserves none"),
        (
            {
                "resources": {"ranks_per_member": 2},
                "fixed": {"batch_size": 32, "noise_schedule": {"kind": "flat", "by": "batch_size"}},
            },
            r"noise_schedule.by must be learning_rate with resources.ranks_per_member 2, got batch_size",
        ),
        ({"resources": {"gpus_per_member": 2}, "prune": True, "fixed": {"batch_size": 32}}, r"prune needs one process"),
    ],
)
def test_sweeps_whose_children_cannot_train_apart_are_refused(values: dict[str, Any], why: str) -> None:
    spec = SweepSpec.checked({"space": "digits_cnn", **values})
    with pytest.raises(SpecError, match=why):
        fit_to_ranks(prepare(spec))
