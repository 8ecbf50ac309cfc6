"""Protocols, pair kinds, several children, ranks and outcomes of whole trials."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.courses import finetune
from tests.support.small_trials import digits_spec, python
from trainables.measurement import curvature, landscape
from trainables.pair.children import Children
from trainables.pair.run import probe_tables, run_pair
from trainables.pair.setup import prepare
from trainables.result import Outcome, PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.tasks import children_data
from trainables.training.base import trunk
from trainables.training.loop import Seeds

QUIET = Runtime(measure=0)
SPEC = digits_spec(batch_size=64, base={"steps": 5})


def _rows(output: PairOutput, method: str) -> dict[float, object]:
    return {m.coefficient: m for m in output.merges if m.method == method}


# -- branch -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def branched() -> PairOutput:
    return run_pair(digits_spec(batch_size=64, protocol="branch", branch_step=8, base={"steps": 0}), QUIET)


def test_children_of_a_trunk_start_at_the_stable_rate_and_anneal(branched: PairOutput) -> None:
    row = branched.result
    assert (row.outcome, row.protocol, row.branch_step, row.steps) == ("ok", "branch", 8, 11)
    for h in branched.history:
        assert h.learning_rate == pytest.approx(0.05 * (1 - math.sqrt(1 / 2)))  # last of 2 steps of decay
    assert row.distance > 0.01


def test_base_of_a_branched_trial_is_the_branch_checkpoint(branched: PairOutput) -> None:
    # task arithmetic with s = 0 is the base: it is better than the initial weights that the trunk started from
    at_base = _rows(branched, "task_arithmetic")[0.0]
    untrained = run_pair(digits_spec(batch_size=64, base={"steps": 0}), QUIET)
    assert at_base.loss_val < _rows(untrained, "task_arithmetic")[0.0].loss_val - 0.1


def test_a_trunk_that_diverges_makes_a_diverged_trial() -> None:
    spec = digits_spec(batch_size=64, protocol="branch", branch_step=30, base={"steps": 0}, learning_rate=1e8)
    row = run_pair(spec, QUIET).result
    assert row.outcome == Outcome.DIVERGED
    assert row.outcome_detail.startswith("the trunk diverged by step ")
    assert row.outcome_detail.endswith(" of 30")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stacked_children_of_a_trunk_are_those_that_train_one_by_one(optimizer: str) -> None:
    settings = {"protocol": "branch", "branch_step": 4, "base": {"steps": 0}, "dtype": "float64", "batch_size": 64}
    more = {"momentum": 0.0, "learning_rate": 1e-3, "optimizer": "adamw"} if optimizer == "adamw" else {}
    spec = digits_spec(**{**settings, **more, "stack": 2})
    rows = []
    for size in (1, 2):
        # equal random streams: they hang on the digest, which the stack is part of
        lab = prepare(spec, QUIET)
        grown = trunk(replace(spec, stack=size), lab.tasks[0], QUIET)
        seeds = [Seeds(2 * i, 2 * i + 1) for i in range(4)]
        made = finetune(
            replace(spec, stack=size), lab.tasks[0].model, grown.weights, lab.data[0], seeds, state=grown.state
        )
        rows.append(made)
    for one, other in zip(*rows, strict=True):
        assert max(float((one.weights[k] - other.weights[k]).abs().max()) for k in one.weights) < 1e-9


def test_the_probe_of_a_branched_trial_is_that_of_the_base() -> None:
    settings = {"protocol": "branch", "branch_step": 8, "base": {"steps": 3}, "batch_size": 64, "merges": ("linear",)}
    found = [run_pair(digits_spec(**settings, learning_rate=r), Runtime(measure=1)).result for r in (0.2, 0.01)]
    assert found[0].k_aug == found[1].k_aug
    assert found[0].trace_sigma_base == found[1].trace_sigma_base
    table = probe_tables([digits_spec(**settings)], QUIET)
    assert table["shift"][0.5] == found[0].k_aug


# -- split data -------------------------------------------------------------------------------------------------------


def test_split_data_trains_on_disjoint_halves_that_all_trials_share() -> None:
    spec = replace(SPEC, pair_kind="split_data")
    lab = prepare(spec, QUIET)
    first, second = (d.x["train"][:].flatten(1) for d in children_data(spec, lab.tasks))
    assert len(first) == len(second) == 360
    assert not (first[:, None] == second[None]).all(2).any()
    again = children_data(replace(spec, learning_rate=1.0, seed=5), lab.tasks)
    assert torch.equal(again[0].x["train"][:].flatten(1), first)
    row = run_pair(spec, QUIET).result
    assert (row.examples, row.steps, row.outcome) == (360, 5, "ok")
    assert row.noises["smith_le"] == pytest.approx(0.05 * 360 / (64 * 0.1))


# -- two tasks --------------------------------------------------------------------------------------------------------

TWO = digits_spec(
    pair_kind="two_task", dataset_b="digits", dataset_b_options={"label_noise": 0.5, "split_seed": 1},
    base={"steps": 20}, batch_size=64, epochs=2, merges=("linear", "task_arithmetic", "ties"),
)  # fmt: skip


@pytest.fixture(scope="module")
def two() -> PairOutput:
    return run_pair(TWO, QUIET)


def test_two_tasks_are_scored_by_task_and_on_average(two: PairOutput) -> None:
    assert two.result.outcome == "ok"
    scores = two.result.scores
    for m in two.merges:
        assert m.accuracy_val == pytest.approx((m.accuracy_a_val + m.accuracy_b_val) / 2)
        own = scores["a_accuracy_test"], scores["b_accuracy_test"]
        wanted = (m.accuracy_a_test / own[0] + m.accuracy_b_test / own[1]) / 2
        assert m.normalised_accuracy_test == pytest.approx(wanted)
    # at the ends a child's backbone serves its own task as the child does
    line = _rows(two, "linear")
    assert line[0.0].accuracy_a_val == scores["a_accuracy_val"]
    assert line[1.0].accuracy_b_val == scores["b_accuracy_val"]
    assert line[0.0].accuracy_b_val < scores["b_accuracy_val"]
    assert scores["merged_normalised_accuracy_val"] == line[0.5].normalised_accuracy_val
    mean = (scores["a_loss_val"] + scores["b_loss_val"]) / 2
    assert scores["gain_mean_loss_val"] == pytest.approx(mean - line[0.5].loss_val)
    assert "ensemble_loss_val" not in scores or scores["ensemble_loss_val"] is None


def test_two_tasks_leave_both_models_behind(two: PairOutput) -> None:
    weights = two.weights
    assert weights is not None
    assert {k[:2] for k in weights} == {"a/", "b/"}
    assert not torch.equal(weights["a/head.weight"], weights["b/head.weight"])
    assert torch.equal(weights["a/features.0.weight"], weights["b/features.0.weight"])


# -- several children -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def four() -> PairOutput:
    merges = ("linear", "task_arithmetic", "fisher", "uniform_soup", "greedy_soup")
    return run_pair(replace(SPEC, members=4, merges=merges), QUIET)


def test_four_children_make_soups(four: PairOutput) -> None:
    assert four.result.members == 4
    assert sorted({h.member for h in four.history}) == ["a", "b", "c", "d"]
    (uniform,) = _rows(four, "uniform_soup").values()
    # four task vectors, each at a quarter, are the mean
    quarter = _rows(four, "task_arithmetic")[0.25]
    assert uniform.loss_test == pytest.approx(quarter.loss_test, rel=1e-4)
    ((ingredients, greedy),) = _rows(four, "greedy_soup").items()
    assert 1 <= ingredients <= 4
    best = max(h.val_accuracy for h in four.history)
    assert greedy.accuracy_val >= best - 1e-9  # the soup starts with the best child and never falls
    assert list(_rows(four, "fisher")) == [0.25]


def test_a_pairs_columns_do_not_depend_on_further_children(four: PairOutput) -> None:
    assert four.result.scores["merged_loss_val"] == _rows(four, "linear")[0.5].loss_val
    assert four.result.scores["ensemble_accuracy_test"] > 0.5


# -- several ranks ----------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_two_ranks_train_the_same_child_as_one(tmp_path: Path) -> None:
    spec = digits_spec(batch_size=72, epochs=2, dtype="float64", base={"steps": 5})  # 20 steps
    (tmp_path / "spec.json").write_text(spec.to_json())
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainables.pair")
    done = python(*launch, str(tmp_path / "spec.json"), MKL_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    together, alone = json.loads(done.stdout), run_pair(spec, Runtime()).result.to_row()
    assert (together["ranks"], alone["ranks"], alone["steps"]) == (2, 1, 20)
    for name in ("distance", "norm_a", "merged_loss_val", "a_loss_train", "task_cosine"):
        assert together[name] == pytest.approx(alone[name], rel=1e-8)
    # measured from the ranks' own gradients: one step each, so only the size agrees
    assert together["trace_sigma"] == pytest.approx(alone["trace_sigma"], rel=1.0)


def test_a_batch_that_ranks_do_not_divide_is_refused() -> None:
    from torch import Generator

    from trainables.tasks.batches import epoch_batches

    data = prepare(SPEC, QUIET).tasks[0].data
    with pytest.raises(ValueError, match=r"64.*3|3.*64"):
        next(epoch_batches(data, SPEC, Generator(), Generator(), 0, 3))


# -- measuring, landscape, memory -------------------------------------------------------------------------------------


def test_measuring_changes_no_number_of_the_training() -> None:
    quiet, watched = (run_pair(SPEC, Runtime(measure=k)).result for k in (0, 3))
    assert quiet.distance == watched.distance
    assert quiet.scores == watched.scores
    assert quiet.trace_sigma is None
    assert watched.trace_sigma > 0
    assert watched.seconds["measure"] > 0
    assert "measure" not in quiet.seconds or quiet.seconds["measure"] < watched.seconds["measure"]
    assert watched.noises["dose"] > 0


def test_measurements_stand_in_the_history() -> None:
    output = run_pair(replace(SPEC, epochs=3), Runtime(measure=3))
    for member in "ab":
        found = [h.trace_sigma for h in output.history if h.member == member]
        assert any(v is not None and v > 0 for v in found)


def test_the_fisher_of_adam_is_one_more_curve_between_the_parents() -> None:
    merges = ("linear", "fisher", "fisher_adam")
    output = run_pair(replace(SPEC, optimizer="adamw", momentum=0.0, learning_rate=1e-3, merges=merges), QUIET)
    curve, line, measured = (_rows(output, m) for m in ("fisher_adam", "linear", "fisher"))
    assert list(curve) == list(line)
    for end in (0.0, 1.0):
        assert curve[end].loss_test == line[end].loss_test
    others = [abs(curve[0.5].loss_test - other[0.5].loss_test) for other in (line, measured)]
    assert all(1e-6 < gap < 0.5 for gap in others)


def test_adamw_has_its_own_noises_and_the_preconditioned_trace() -> None:
    spec = replace(SPEC, optimizer="adamw", momentum=0.0, learning_rate=1e-3)
    row = run_pair(spec, Runtime(measure=2)).result.to_row()
    assert row["trace_sigma_preconditioned"] > 0
    assert row["noise_adam_sde"] == pytest.approx(1e-3 / 8)
    assert row["noise_paper"] is None


def test_landscape_and_plane_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "LANDSCAPE_EXAMPLES", 720)
    monkeypatch.setattr(landscape, "PROBES", 4)
    output = run_pair(replace(SPEC, merges=("linear",)), Runtime(measure=0, landscape=True, plane=3))
    row = output.result.to_row()
    assert row["hessian_trace_a"] != 0
    assert row["lambda_max_merged"] > 0
    midpoint = row["merged_loss_train"] - (row["a_loss_train"] + row["b_loss_train"]) / 2
    assert row["barrier_excess"] + row["barrier_quadratic"] == pytest.approx(midpoint, abs=5e-3)
    assert len(output.plane) == 9
    assert {p.digest for p in output.plane} == {output.result.digest}


def test_a_device_without_memory_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Children, "train", full)
    row = run_pair(SPEC, QUIET).result
    assert row.outcome == Outcome.OUT_OF_MEMORY
    assert "64" in row.outcome_detail
    assert "2.00 GiB" in row.outcome_detail


# -- whatever else a spec can ask for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"augmentation": "crop_flip+mixup", "augmentation_strength": 0.5},
        {"optimizer": "lion", "momentum": 0.0, "learning_rate": 1e-3},
        {"clip_norm": 1.0},
        {"steps": 7},
        {"freeze": ("features.0.*",)},
        {"autocast": "bfloat16"},
        {"merges": ("linear", "slerp", "dare", "ties")},
    ],
    ids=str,
)
def test_one_trial_of_everything(change: dict[str, object]) -> None:
    spec: PairSpec = replace(SPEC, **change)
    row = run_pair(spec, Runtime(measure=1)).result
    assert row.outcome == Outcome.OK, row.outcome_detail
    assert row.scores["merged_accuracy_test"] > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "branch"}, "branch_step must be >= 1 in protocol branch, got 0"),
        ({"branch_step": 5}, "branch_step must be 0 unless protocol is branch, got 5"),
        (
            {"pair_kind": "two_task"},
            "dataset_b must name the data set of the second task in pair_kind two_task, got ''",
        ),
        ({"dataset_b": "digits"}, "dataset_b must be empty unless pair_kind is two_task, got 'digits'"),
        ({"members": 1}, "members must be >= 2, got 1"),
        ({"clip_norm": -1}, "clip_norm must be >= 0, got -1.0"),
        ({"beta1": 1}, "beta1 must lie in [0, 1), got 1.0"),
        ({"compile": "yes"}, "compile must be true or false, got 'yes'"),
        ({"autocast": "float16"}, "autocast must be one of empty, bfloat16, got 'float16'"),
    ],
    ids=str,
)
def test_rules_of_protocols_and_pair_kinds(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(SPEC, **change)
