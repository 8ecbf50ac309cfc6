"""Trials whose children have different tasks."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from trainables.measurement.curvature import few_examples
from trainables.merging.coefficient_grid import score_merges
from trainables.merging.methods import MERGES
from trainables.pair import run
from trainables.pair.run import inspect, run_pair
from trainables.pair.setup import prepare
from trainables.registry import UnknownName
from trainables.result import PairOutput
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import recalibrate, score_weights

QUIET = Runtime(measure=0)
SETS: list[Any] = [
    "digits",
    {"name": "digits", "options": {"split_seed": 1}},
    {"name": "digits", "options": {"label_noise": 0.5}},
]
METHODS = ("linear", "task_arithmetic", "taskwise_arithmetic", "ties", "dare", "regmean", "fisher", "uniform_soup",
          "greedy_soup")  # fmt: skip
FIELDS: dict[str, Any] = {
    "pair_kind": "tasks", "datasets": SETS, "model": "mlp", "model_options": {"widths": [16]}, "learning_rate": 0.05,
    "batch_size": 64, "momentum": 0.9, "epochs": 1, "base": {"steps": 10}, "merges": METHODS,
}  # fmt: skip


def spec_of(**changes: Any) -> PairSpec:
    return PairSpec.from_mapping({**FIELDS, **changes})


def _children_of(spec: PairSpec) -> list[dict[str, torch.Tensor]]:
    """Return the weights of a trial's children, of which no output keeps all."""
    found: list[Any] = []

    def keep(spec: PairSpec, tasks: Any, children: Any, *rest: Any) -> Any:
        found.extend(children)
        return score_merges(spec, tasks, children, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "score_merges", keep)
        run_pair(spec, QUIET)
    return found


@pytest.fixture(scope="module")
def three() -> PairOutput:
    return run_pair(spec_of(), QUIET)


def test_each_task_has_a_child_and_a_head_on_one_backbone(three: PairOutput) -> None:
    result, weights = three.result, three.weights
    assert (result.outcome, result.members, result.dataset) == ("ok", 3, "digits + digits + digits")
    assert {h.member for h in three.history} == {"a", "b", "c"}
    assert weights is not None
    assert {k[:2] for k in weights} == {"a/", "b/", "c/"}
    for task in "bc":
        assert torch.equal(weights["a/features.1.weight"], weights[f"{task}/features.1.weight"])
        assert not torch.equal(weights["a/head.weight"], weights[f"{task}/head.weight"])


def test_scores_are_per_task_and_on_average(three: PairOutput) -> None:
    scores: Any = three.result.scores
    merges: list[Any] = list(three.merges)
    own = [scores[f"{t}_accuracy_test"] for t in "abc"]
    for m in merges:
        accuracies = [m.accuracy_a_test, m.accuracy_b_test, m.accuracy_c_test]
        assert m.accuracy_test == pytest.approx(sum(accuracies) / 3)
        shares = [a / o for a, o in zip(accuracies, own, strict=True)]
        assert m.normalised_accuracy_test == pytest.approx(sum(shares) / 3)
        assert m.normalised_accuracy_worst_test == pytest.approx(min(shares))
    (line,) = [m for m in merges if m.method == "linear"]
    assert line.coefficient == 1 / 3
    mean = sum(scores[f"{t}_loss_val"] for t in "abc") / 3
    assert scores["gain_mean_loss_val"] == pytest.approx(mean - line.loss_val)
    assert scores["gain_tasks_loss_val"] == pytest.approx(mean - min(m.loss_val for m in merges), abs=1e-5)
    assert scores["barrier_tasks_worst_loss_val"] >= scores["barrier_tasks_mean_loss_val"]


def test_merges_take_all_tasks(three: PairOutput) -> None:
    merges: list[Any] = list(three.merges)
    rows = {(m.method, m.coefficient): m for m in merges}
    assert {m for m, _ in rows} == set(METHODS)
    # three task vectors, each at a third, are the mean
    assert rows["linear", 1 / 3].loss_test == pytest.approx(rows["uniform_soup", 1.0].loss_test, rel=1e-6)
    (taskwise,) = [m for m in merges if m.method == "taskwise_arithmetic"]
    assert taskwise.coefficients is not None
    scales = [float(s) for s in taskwise.coefficients.split(", ")]
    assert taskwise.coefficient == pytest.approx(sum(scales) / 3)
    assert taskwise.loss_val <= min(m.loss_val for m in merges if m.method == "task_arithmetic")


def test_two_tasks_are_the_same_pair_by_both_names() -> None:
    ends = ("linear", "regmean")
    by_list = run_pair(spec_of(datasets=SETS[:2], merges=ends), QUIET)
    two = {"dataset": "digits", "dataset_b": "digits", "dataset_b_options": {"split_seed": 1}}
    by_name = run_pair(
        PairSpec.from_mapping({**FIELDS, **two, "datasets": [], "pair_kind": "two_task", "merges": ends}), QUIET
    )
    # other digests, so that orders and start weights differ, but the same columns and curves
    assert {k for k, v in by_list.result.scores.items() if v is not None} == set(by_name.result.scores)
    assert [(m.method, m.coefficient) for m in by_list.merges] == [(m.method, m.coefficient) for m in by_name.merges]


def test_a_stack_gives_each_repeat_its_tasks() -> None:
    spec = spec_of(merges=("linear",), stack=2)
    alone = run_pair(spec, QUIET)
    assert alone.result.outcome == "ok"
    assert run_pair(replace(spec, repeat=1), QUIET).result.scores["c_loss_val"] != alone.result.scores["c_loss_val"]


def test_rungs_merge_all_tasks() -> None:
    output = run_pair(spec_of(merges=("linear",), epochs=3), replace(QUIET, rungs=1))
    (rung,) = output.rungs
    assert rung.merged_loss_val is not None
    assert rung.merged_loss_val > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"datasets": ["digits"]}, "datasets must name 2 to 8 data sets in pair_kind tasks, got digits"),
        ({"datasets": []}, "datasets must name 2 to 8 data sets in pair_kind tasks, got none"),
        ({"datasets": [f"set{i}" for i in range(9)]}, "datasets must name 2 to 8 data sets in pair_kind tasks, got s"),
        ({"datasets": ["digits", "digits"]}, "datasets must differ, got 'digits' twice with the same options;"),
        ({"datasets": "digits"}, "datasets must be a list of data sets, got 'digits'"),
        ({"datasets": [3, 4]}, "datasets must hold names, or mappings with `name` and `options`, got 3"),
        ({"datasets": [{"nam": "digits"}]}, "datasets must hold names, or mappings with `name` and `options`, got {"),
        ({"datasets": ["a", {"name": "b", "options": 3}]}, "the options of data set b must be a mapping, got 3"),
        ({"dataset": "digits"}, "dataset must be empty in pair_kind tasks, whose data sets are in `datasets`, got"),
        ({"dataset_options": {"size": 9}}, "dataset_options must be empty in pair_kind tasks"),
        ({"dataset_b": "digits"}, "dataset_b must be empty unless pair_kind is two_task, got 'digits'"),
        ({"members": 4}, "members must be the number of data sets, 3, in pair_kind tasks; leave it out, got 4"),
        ({"protocol": "branch", "branch_step": 3}, "protocol must be finetune in pair_kind tasks, got 'branch'"),
        ({"pair_kind": "same_task"}, "datasets must be empty unless pair_kind is tasks, got digits, digits, digits"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_tasks_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        spec_of(**change)


def test_what_the_data_refuse_is_named_before_training() -> None:
    with pytest.raises(UnknownName, match="unknown data set 'digit'; did you mean digits"):
        inspect([spec_of(datasets=["digits", "digit"])], QUIET)
    with pytest.raises(ValueError, match=r"share a backbone .* digits has \(1, 8, 8\) and digits \(1, 9, 9\)"):
        inspect([spec_of(datasets=["digits", {"name": "digits", "options": {"size": 9}}])], QUIET)
    with pytest.raises(ValueError, match="merge 'slerp' takes two models, got 3 tasks; leave it out of merges"):
        inspect([spec_of(merges=["linear", "slerp"])], QUIET)


@pytest.mark.parametrize("options", [{"widths": [16]}, {"widths": [16], "norm": "batch"}])
def test_landscape_and_plane_give_each_task_its_own_head(options: dict[str, Any]) -> None:
    spec = spec_of(merges=["linear"], model_options=options)
    runtime = replace(QUIET, landscape=True, plane=7)
    lab = prepare(spec, runtime)
    for task in lab.tasks:
        task.batches = lab.recalibration_batches(spec, task)
    output = run_pair(spec, runtime)
    relief: Any = output.result.landscape
    assert all(value is not None for value in relief.values())
    losses = {(round(p.x, 2), round(p.y, 2)): p.loss_train for p in output.plane}
    assert len(losses) == 49

    children = _children_of(spec)
    shared = [t.shared(c) for t, c in zip(lab.tasks, children, strict=True)]
    middle = MERGES["linear"](lab.tasks[0].shared(lab.tasks[0].base), shared[:2], 0.5)

    def loss(task: int, weights: Any) -> float:
        own = lab.tasks[task]
        whole = recalibrate(own.model, own.whole(weights, children[task]), own.batches)
        return score_weights(own.model, whole, *few_examples(own, "train")).loss

    for at, weights in {(1.0, 0.0): shared[0], (0.0, 1.0): shared[1], (0.5, 0.5): middle}.items():
        assert losses[at] == pytest.approx((loss(0, weights) + loss(1, weights)) / 2, rel=1e-5)
    barrier = sum(loss(i, middle) - loss(i, shared[i]) for i in range(2)) / 2
    assert relief["barrier_quadratic"] + relief["barrier_excess"] == pytest.approx(barrier, abs=1e-5)


def test_equal_data_sets_have_equal_digests_however_they_are_written() -> None:
    plain = spec_of(datasets=["digits", "mnist"])
    assert plain.digest == spec_of(datasets=[{"name": "digits", "options": {}}, {"name": "mnist"}], members=2).digest
    assert PairSpec.from_json(plain.to_json()) == plain
    assert plain.base_digest != spec_of(datasets=["mnist", "digits"]).base_digest


def test_corpora_of_text_share_the_whole_model() -> None:
    size = {"context": 8, "train": 40, "val": 12, "test": 12}
    sets = [{"name": "sentences", "options": size}, {"name": "sentences", "options": {**size, "label_noise": 0.5}}]
    spec = spec_of(
        datasets=sets, model="gpt", model_options={"layers": 1, "heads": 2, "width": 8}, optimizer="adamw",
        learning_rate=0.01, batch_size=8, momentum=0.0, base={"steps": 5, "batch_size": 8},
        merges=["linear", "task_arithmetic", "taskwise_arithmetic", "regmean"],
    )  # fmt: skip
    output = run_pair(spec, QUIET)
    assert output.result.outcome == "ok"
    assert output.weights is not None
    one = {k[2:]: v for k, v in output.weights.items() if k.startswith("a/")}
    assert all(torch.equal(v, output.weights[f"b/{k}"]) for k, v in one.items())
    scores: Any = output.result.scores
    chosen = next(m for m in output.merges if m.method == output.result.chosen_merge
                  and m.coefficient == output.result.chosen_coefficient)  # fmt: skip
    mean = (scores["a_loss_val"] + scores["b_loss_val"]) / 2
    assert scores["gain_tasks_loss_val"] == pytest.approx(mean - (chosen.loss_val or 0.0))


def test_text_and_images_do_not_share_a_model() -> None:
    with pytest.raises(
        ValueError, match="tasks must all be text or all be images, got text sentences and images digits"
    ):
        inspect([spec_of(datasets=["digits", "sentences"])], QUIET)
