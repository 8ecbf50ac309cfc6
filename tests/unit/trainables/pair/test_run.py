from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.courses import finetune
from tests.support.small_trials import digits_spec, same
from trainables.datasets.load import Data
from trainables.merging.methods import MERGES
from trainables.noise import predict_all
from trainables.pair import setup as lab_module
from trainables.pair.run import geometry, inspect, run_pair, run_pairs
from trainables.pair.setup import prepare
from trainables.result import LANDSCAPE, SCORES, SPLITS, Outcome, PairOutput, trial_columns
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import score
from trainables.training.loop import Seeds

SPEC = digits_spec()
CHANGING = ("seconds", "device_seconds", "step_seconds", "started")


@dataclass
class Remade:
    """A trial made again from its parts."""

    output: PairOutput
    data: Data
    model: nn.Module
    base: dict[str, Tensor]
    a: dict[str, Tensor]
    b: dict[str, Tensor]

    def logits(self, weights: dict[str, Tensor], split: str) -> Tensor:
        self.model.load_state_dict(weights)
        with torch.no_grad():
            return self.model.eval()(self.data.x[split][:])


@pytest.fixture(scope="module")
def trial() -> Remade:
    output = run_pair(SPEC, Runtime())
    task = prepare(SPEC, Runtime()).tasks[0]
    data, model, base = task.data, task.model, dict(task.base)
    seeds = [Seeds(SPEC.stream(f"{m}/order"), SPEC.stream(f"{m}/augment")) for m in "ab"]
    a, b = (c.weights for c in finetune(SPEC, model, base, data, seeds))
    return Remade(output, data, model, base, a, b)


OF_TASKS = {c.name for c in SCORES if re.search(r"normalised|_tasks_|^[c-h]_", c.name)}
"""Columns that only children of several tasks fill."""


def _equal(a: PairOutput, b: PairOutput) -> bool:
    assert a.weights is not None
    assert b.weights is not None
    return (
        same(a.result, b.result, CHANGING)
        and (a.merges, a.history) == (b.merges, b.history)
        and all(torch.equal(a.weights[k], b.weights[k]) for k in a.weights)
    )


def test_every_column_is_filled_and_finite(trial: Remade) -> None:
    row = trial.output.result.to_row()
    assert list(row) == [c.name for c in trial_columns()]
    scores = [c.name for c in SCORES if c.name not in OF_TASKS]
    assert all(isinstance(row[name], float) and math.isfinite(row[name]) for name in scores)
    sweep = {"number", "sweep_seed", "space", "sampler", "noise_target", "stage"}  # filled by the runner
    of_adam = {"noise_adam_sde", "noise_adamw_angular", "noise_adamw_tau", "trace_sigma_preconditioned"}
    unasked = {c.name for c in LANDSCAPE} | {"weights_sha256", "clipped_fraction", "peak_memory_bytes", "pruned_step"}
    unasked |= {"schedule_start", "schedule_end", "child_noise_ratio", "tokens_per_example", "bytes_per_token"}
    unasked |= {"chosen_coefficients", "chosen_window", "trunk_noise_ratio", "schedule_mean", "servo_off_step", "proxy"}
    empty = {k for k, v in row.items() if v is None}
    # |G|^2 is statistically zero near a minimum, and B_simple then undefined
    assert empty - {"b_simple", "noise_critical_ratio"} == sweep | of_adam | unasked | OF_TASKS
    assert (row["outcome"], row["examples"], row["steps"], row["parameters"]) == ("ok", 720, 22, 14_174)
    assert row["wd_relaxation"] == pytest.approx(0.05 * 1e-3 * 22 / 0.1)
    settings = {"learning_rate": 0.05, "batch_size": 32, "momentum": 0.9, "weight_decay": 1e-3, "examples": 720}
    assert {k: row[f"noise_{k}"] for k in predict_all(settings)} == pytest.approx(predict_all(settings))
    assert row["noise_paper_full"] == pytest.approx(row["noise_paper"] * row["trace_sigma"])
    assert row["noise_paper_aug"] == pytest.approx(row["noise_paper"] * row["k_aug"])
    assert 0 <= row["augmentation_share"] < 1 <= row["k_aug"]
    seconds = [v for k, v in row.items() if k.startswith("seconds_")]
    assert row["warnings"].startswith("inert_weight_decay: ")
    assert sum(seconds) == pytest.approx(row["device_seconds"])
    assert PairSpec.from_json(row["spec"]) == SPEC


def test_scores_are_those_of_the_weights(trial: Remade) -> None:
    row = trial.output.result.to_row()
    merged = MERGES["linear"](trial.base, (trial.a, trial.b), 0.5)
    for who, weights in {"a": trial.a, "b": trial.b, "merged": merged}.items():
        for split in SPLITS:
            wanted = score(trial.logits(weights, split), trial.data.y[split])
            assert row[f"{who}_loss_{split}"] == pytest.approx(wanted.loss, rel=1e-5)
            assert row[f"{who}_accuracy_{split}"] == pytest.approx(wanted.accuracy)


def test_merged_is_the_linear_row_at_one_half_and_gains_follow(trial: Remade) -> None:
    row, rows = trial.output.result.to_row(), {(m.method, m.coefficient): m for m in trial.output.merges}
    for split in SPLITS:
        line = [getattr(rows["linear", i / 10], f"loss_{split}") for i in range(11)]
        assert row[f"merged_loss_{split}"] == line[5]
        assert row[f"merged_accuracy_{split}"] == getattr(rows["linear", 0.5], f"accuracy_{split}")
        assert (row[f"a_loss_{split}"], row[f"b_loss_{split}"]) == (line[0], line[10])
        assert row[f"gain_mean_loss_{split}"] == pytest.approx((line[0] + line[10]) / 2 - line[5])
        assert row[f"barrier_frankle_loss_{split}"] == pytest.approx(max(line) - (line[0] + line[10]) / 2)


def test_merges_table_holds_every_method_and_coefficient(trial: Remade) -> None:
    rows = trial.output.merges
    assert [(m.method, m.coefficient) for m in rows] == [(n, c) for n in SPEC.merges for c in MERGES[n].grid]
    assert {(m.digest, m.config) for m in rows} == {(SPEC.digest, SPEC.config)}
    raw = [f.name for f in fields(rows[0]) if f.name.startswith("raw_")]
    assert len(raw) == 4
    assert all(getattr(m, name) is None for m in rows for name in raw)  # GroupNorm: nothing to recalibrate


def test_the_chosen_merge_has_the_lowest_validation_loss(trial: Remade) -> None:
    result, rows = trial.output.result, trial.output.merges
    best = min(rows, key=lambda m: m.loss_val)
    assert (result.chosen_merge, result.chosen_coefficient) == (best.method, best.coefficient)
    for split in SPLITS:
        assert result.scores[f"chosen_loss_{split}"] == getattr(best, f"loss_{split}")
    weights = trial.output.weights
    assert weights is not None
    wanted = MERGES[best.method](trial.base, (trial.a, trial.b), best.coefficient)
    assert all(torch.equal(weights[k], wanted[k]) for k in wanted)


def test_the_ensemble_is_the_mean_of_the_parents_logits(trial: Remade) -> None:
    row = trial.output.result.to_row()
    for split in SPLITS:
        mean = (trial.logits(trial.a, split).double() + trial.logits(trial.b, split).double()) / 2
        y = trial.data.y[split]
        log_p = mean - torch.logsumexp(mean, 1, keepdim=True)
        loss = -float(log_p[torch.arange(len(y)), y].mean())
        assert row[f"ensemble_loss_{split}"] == pytest.approx(loss, rel=1e-5)
        assert row[f"ensemble_accuracy_{split}"] == pytest.approx(float((mean.argmax(1) == y).double().mean()))


def test_distance_cosine_and_norms_by_hand(trial: Remade) -> None:
    row = trial.output.result
    base, a, b = (
        np.concatenate([v.double().numpy().ravel() for v in w.values()]) for w in (trial.base, trial.a, trial.b)
    )
    assert len(a) == 14_174  # no buffers in this model: the state dict is the parameters
    assert row.distance == pytest.approx(np.sqrt(np.sum((a - b) ** 2)))
    cosine = np.dot(a - base, b - base) / np.sqrt(np.sum((a - base) ** 2) * np.sum((b - base) ** 2))
    assert row.task_cosine == pytest.approx(cosine)
    assert (row.norm_a, row.norm_b) == pytest.approx((np.sqrt(np.sum(a**2)), np.sqrt(np.sum(b**2))))
    assert -1 < cosine < 1


def test_geometry_without_any_movement_has_no_cosine() -> None:
    w = {"x": torch.ones(3)}
    found = geometry(w, w, w, ["x"])
    assert math.isnan(found["task_cosine"])
    assert (found["distance"], found["norm_a"]) == (0.0, pytest.approx(math.sqrt(3)))


def test_children_differ_and_the_same_spec_gives_the_same_bits(trial: Remade) -> None:
    assert not torch.equal(trial.a["head.weight"], trial.b["head.weight"])
    assert trial.output.result.distance > 0.01
    state, seed = torch.random.get_rng_state(), torch.initial_seed()
    assert _equal(run_pair(SPEC, Runtime()), trial.output)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.initial_seed() == seed
    assert run_pair(replace(SPEC, repeat=1), Runtime()).result.distance != trial.output.result.distance


def test_history_follows_the_schedule(trial: Remade) -> None:
    assert [(h.member, h.epoch, h.step) for h in trial.output.history] == [("a", 1, 22), ("b", 1, 22)]
    for h in trial.output.history:
        assert h.learning_rate == pytest.approx(0.05 * (1 - math.sqrt(3 / 4)))  # last of 4 steps of decay
        assert h.noise_paper == pytest.approx(h.learning_rate / (32 * 0.1))
        assert h.val_loss == pytest.approx(trial.output.result.scores[f"{h.member}_loss_val"], rel=1e-5)


def test_progress_is_reported() -> None:
    seen: list[dict[str, object]] = []
    run_pair(replace(SPEC, batch_size=128), Runtime(), lambda r: seen.append(dict(r)))
    assert [(r["repeat"], r["member"], r["epoch"], r["epochs"]) for r in seen] == [(0, "a", 1, 1), (0, "b", 1, 1)]
    assert all(isinstance(r["val_loss"], float) for r in seen)


def test_stack_mates_give_the_same_numbers_together_and_alone() -> None:
    specs = replace(SPEC, stack=2, batch_size=64).stack_mates()
    together = run_pairs(list(reversed(specs)), Runtime())
    assert [o.result.digest for o in together] == [s.digest for s in reversed(specs)]
    assert _equal(run_pair(specs[1], Runtime()), together[0])
    assert together[0].result.stack == 2


# -- BatchNorm --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batchnorm() -> PairOutput:
    return run_pair(digits_spec(model_options={"norm": "batch"}, learning_rate=0.1, batch_size=16), Runtime())


def test_batchnorm_trials_keep_raw_and_recalibrated_scores(batchnorm: PairOutput) -> None:
    for m in batchnorm.merges:
        assert None not in (m.raw_loss_val, m.raw_loss_test, m.raw_accuracy_val, m.raw_accuracy_test)
    midpoint = next(m for m in batchnorm.merges if (m.method, m.coefficient) == ("linear", 0.5))
    assert midpoint.loss_val is not None
    assert midpoint.raw_loss_val is not None
    assert midpoint.loss_val < midpoint.raw_loss_val
    assert batchnorm.result.scores["merged_loss_val"] == midpoint.loss_val
    assert batchnorm.result.seconds["recalibrate"] > 0
    assert batchnorm.weights is not None
    assert batchnorm.weights["features.1.num_batches_tracked"].item() == 5  # an epoch in batches of 128: 720 // 128


def test_parents_pass_the_same_recalibration(batchnorm: PairOutput) -> None:
    ends = [m for m in batchnorm.merges if m.method == "linear" and m.coefficient in (0.0, 1.0)]
    for m, who in zip(ends, "ab", strict=True):
        assert m.raw_loss_val != m.loss_val
        assert batchnorm.result.scores[f"{who}_loss_val"] == m.loss_val


# -- outcomes ---------------------------------------------------------------------------------------------------------


def test_divergence_is_an_outcome_with_its_step() -> None:
    output = run_pair(replace(SPEC, learning_rate=1e4, epochs=3), Runtime())
    row = output.result
    assert row.outcome == Outcome.DIVERGED
    assert row.outcome_detail.startswith("child A diverged by step ")
    assert 1 < int(row.outcome_detail.split()[5]) <= 22
    assert row.outcome_detail.endswith(" of 66")
    assert row.scores == {}
    assert (output.merges, output.weights, row.distance) == ((), None, None)
    assert {h.member for h in output.history} == {"a", "b"}
    assert row.noises["paper"] == pytest.approx(1e4 / 3.2)


def test_a_diverged_trial_holds_no_course_that_it_did_not_reach() -> None:
    spec = replace(SPEC, learning_rate=1e4, epochs=3, noise_schedule={"kind": "linear", "start": 2, "end": 1})
    row = run_pair(spec, Runtime()).result
    assert row.outcome == Outcome.DIVERGED
    assert row.schedule_start is not None
    assert (row.schedule_end, row.schedule_mean) == (None, None)
    assert row.noises.get("dose") is None


def test_a_parent_below_the_floor_is_kept_but_cannot_win() -> None:
    output = run_pair(replace(SPEC, accuracy_floor=1.0), Runtime())
    worst = min(output.result.scores["a_accuracy_val"], output.result.scores["b_accuracy_val"])
    assert output.result.outcome == Outcome.NOT_VIABLE
    assert output.result.outcome_detail == f"a parent's validation accuracy {worst:.3f} is below the floor 1.0"
    assert {c.name for c in SCORES} - set(output.result.scores) <= OF_TASKS
    assert len(output.merges) == 18
    assert output.weights is None


SOURCE = """
import torch
from torch import nn
from trainables.datasets import DATASETS, Data
from trainables.models import MODELS

@DATASETS.register("far_validation")
def far_validation(root):
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return Data({"train": x, "val": x + float("inf"), "test": x}, dict.fromkeys(("train", "val", "test"), y), 2)

@DATASETS.register("two_clouds")
def two_clouds(root, shift=1.0):
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(96) % 2
    x[:, 0] += shift * (2 * y - 1)
    parts = {"train": slice(0, 64), "val": slice(64, 80), "test": slice(80, 96)}
    return Data({s: x[p] for s, p in parts.items()}, {s: y[p] for s, p in parts.items()}, 2)

@MODELS.register("with_dropout")
def with_dropout(classes, inputs, width=8):
    return nn.Sequential(nn.Linear(inputs, width), nn.Dropout(0.2), nn.Linear(width, classes))
"""


def _own(**changes: object) -> PairSpec:
    return digits_spec(
        **{"dataset": "two_clouds", "model": "with_dropout", "augmentation": "none", "batch_size": 16, "source": SOURCE}
        | changes
    )


@pytest.mark.usefixtures("own_registries", "no_bases")
def test_a_loss_that_is_not_finite_is_not_viable_and_says_so() -> None:
    output = run_pair(_own(dataset="far_validation"), Runtime())
    assert output.result.outcome == Outcome.NOT_VIABLE
    assert output.result.outcome_detail == "a parent's validation loss is not finite"
    assert output.result.scores["merged_loss_val"] is None
    assert isinstance(output.result.scores["merged_loss_test"], float)
    assert output.weights is None


@pytest.mark.usefixtures("own_registries")
def test_a_users_model_and_data_make_a_trial_that_leaves_no_trace(no_bases: dict[tuple[str, str], object]) -> None:
    spec = _own(dataset_options={"shift": 2.0}, model_options={"width": 5})
    outputs: list[PairOutput] = []
    for seed in (1, 2):
        no_bases.clear()  # the base, too, is made again
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            outputs.append(run_pair(spec, Runtime()))
            assert torch.equal(torch.random.get_rng_state(), before)
    assert _equal(*outputs)
    assert outputs[0].result.parameters == 4 * 5 + 5 + 5 * 2 + 2
    assert (outputs[0].result.examples, outputs[0].result.classes) == (64, 2)


@pytest.mark.usefixtures("own_registries", "no_bases")
def test_wrong_model_options_say_so() -> None:
    with pytest.raises(ValueError, match=r"model 'with_dropout' has no option 'widht'; did you mean width\?"):
        run_pair(_own(model_options={"widht": 5}), Runtime())


# -- inspect and the command line -------------------------------------------------------------------------------------


def test_inspect_counts_examples_without_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_module, "base_weights", lambda *_: pytest.fail("trained"))
    assert inspect([SPEC], Runtime()) == 720


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentation": "shft"}, "unknown augmentation 'shft'; did you mean shift?"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'; did you mean sgd or sgdw or sgdp?"),
        ({"schedule": "wds"}, "unknown schedule 'wds'; did you mean wsd?"),
        ({"merges": ("linear", "tis")}, "unknown merge 'tis'; did you mean ties?"),
        ({"dataset": "digit"}, "unknown data set 'digit'; did you mean digits?"),
        ({"model": "small_cn"}, "unknown model 'small_cn'; did you mean small_cnn or small_vit or mvitv2_small_cls?"),
        ({"model_options": {"norm": "layer"}}, "norm must be 'group' or 'batch', got 'layer'"),
        ({"batch_size": 721}, "batch_size must be <= the 720 training examples, got 721"),
        (
            {"merges": ("linear", "fisher_adam")},
            "merge 'fisher_adam' needs the second moments of adam or adamw, got optimizer 'sgd'; leave it out "
            "of merges",
        ),
        (
            {"window": {"size": 5, "spacing": 100}},
            "window must fit in the 22 steps of a child, got 5 checkpoints every 100 steps; lower window.size or "
            "window.spacing",
        ),
        ({"base": {"batch_size": 721}}, "base batch_size must be <= the 720 training examples, got 721"),
    ],
    ids=str,
)
def test_inspect_finds_what_training_would_stumble_on(change: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, KeyError)) as error:
        inspect([replace(SPEC, **change)], Runtime())
    assert str(error.value) == message
