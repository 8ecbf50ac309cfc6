"""Whole trials of language models."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from trainables.measurement.curvature import few_examples
from trainables.merging.fisher import diagonal_fisher
from trainables.models.losses import mean_loss
from trainables.pair.run import inspect, run_pair, run_pairs
from trainables.pair.setup import prepare
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.evaluation import score, score_ensemble, score_weights

PLAYS = b"".join(b"line %d of the play: to be or not to be.\n" % (i * i % 97) for i in range(300))


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    (tmp_path / "plays.txt").write_bytes(PLAYS)
    return Runtime(data_root=str(tmp_path))


def text_spec(**changes: Any) -> PairSpec:
    """One cheap trial of a language model."""
    settings: dict[str, Any] = {
        "dataset": "text",
        "dataset_options": {"path": "plays.txt", "context": 16, "train": 120},
        "model": "gpt",
        "model_options": {"layers": 1, "heads": 2, "width": 8},
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "batch_size": 8,
        "epochs": 2,
        "base": {"steps": 20, "learning_rate": 0.3, "batch_size": 16},
    }
    return PairSpec(**{**settings, **changes})


def test_a_pair_trains_and_merges_with_every_measurement(runtime: Runtime) -> None:
    merges = ["linear", "task_arithmetic", "fisher", "ties", "greedy_soup"]
    options = {"path": "plays.txt", "context": 8, "train": 40, "val": 10, "test": 10}
    output = run_pair(
        text_spec(merges=merges, members=3, dataset_options=options),
        replace(runtime, landscape=True, measure=1, rungs=1),
    )
    row = output.result
    assert row.outcome == "ok"
    assert (row.examples, row.classes, row.batch_size, row.steps) == (40, 256, 8, 10)
    scores = row.scores
    assert 0 < scores["merged_loss_test"] < math.log(256)
    assert 0 < scores["merged_accuracy_test"] < 1
    assert scores["ensemble_loss_val"] < 1.01 * max(scores["a_loss_val"], scores["b_loss_val"])
    assert row.trace_sigma > 0
    assert row.trace_sigma_preconditioned > 0
    assert 0 < row.cka_val <= 1
    assert row.k_aug == 1.0
    assert all(math.isfinite(v) for v in row.landscape.values())
    assert {m.method for m in output.merges} == set(merges)
    assert len(output.rungs) == 1


def test_a_stack_trains_like_single_trials(runtime: Runtime) -> None:
    spec = text_spec(optimizer="sgd", learning_rate=0.1, epochs=1)
    together = run_pairs([replace(spec, stack=2, repeat=r) for r in (0, 1)], replace(runtime, measure=0))
    assert [o.result.outcome for o in together] == ["ok", "ok"]
    losses = [o.result.scores["a_loss_val"] for o in together]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("changes", [{"pair_kind": "split_data"}, {"protocol": "branch", "branch_step": 10}])
def test_other_pairs_of_text(runtime: Runtime, changes: dict[str, Any]) -> None:
    row = run_pair(text_spec(**changes), replace(runtime, measure=0)).result
    assert row.outcome == "ok"
    assert row.examples == (60 if "pair_kind" in changes else 120)


def test_a_folder_of_transformers_is_the_base(runtime: Runtime, tmp_path: Path) -> None:
    first = prepare(text_spec(), runtime)
    model = first.tasks[0].model
    model.load_state_dict(dict(first.tasks[0].base))
    model.save_pretrained(tmp_path / "saved")
    lab = prepare(text_spec(model=f"hf:{tmp_path / 'saved'}", model_options={}, base={"steps": 0}), runtime)
    assert len(lab.weights_sha256) == 64
    assert lab.tasks[0].base.keys() == first.tasks[0].base.keys()
    assert all(torch.equal(v, first.tasks[0].base[k]) for k, v in lab.tasks[0].base.items())


def test_scores_in_parts_are_those_of_all_logits(runtime: Runtime) -> None:
    task = prepare(text_spec(), runtime).tasks[0]
    x, y = task.data.scored("val")
    task.model.load_state_dict(dict(task.base))
    with torch.no_grad():
        logits = task.model.eval()(x[slice(0, len(x))])
    parts = score_weights(task.model, task.base, x, y)
    whole = score(logits.flatten(0, 1), y.flatten().long())
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.loss == pytest.approx(float(mean_loss(logits.double(), y)), rel=1e-6)
    assert parts.accuracy == pytest.approx(whole.accuracy)
    same = score_ensemble(task.model, [task.base, task.base], x, y)
    assert same.loss == pytest.approx(parts.loss, rel=1e-6)
    few, labels = few_examples(task, "val")
    assert score_weights(task.model, task.base, few, labels).loss == pytest.approx(parts.loss, rel=1e-6)


def test_the_fisher_of_a_text_is_that_of_its_sequences(runtime: Runtime) -> None:
    task = prepare(text_spec(), runtime).tasks[0]
    x = task.data.x["train"][slice(0, 2)]
    fisher = diagonal_fisher(task.model, task.base, x, Generator().manual_seed(0))
    task.model.load_state_dict(dict(task.base))
    task.model.eval()
    generator = Generator().manual_seed(0)
    p = task.model(x).detach().softmax(2)
    drawn = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(2, 16)
    wanted = 0
    for sequence, tokens in zip(x, drawn, strict=True):
        log_p = -16 * mean_loss(task.model(sequence[None]), tokens[None])
        (gradient,) = torch.autograd.grad(log_p, [task.model.transformer.ln_f.weight])
        wanted = wanted + gradient.square() / 2
    torch.testing.assert_close(fisher["transformer.ln_f.weight"], wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "mixup"}, "augmentation must be none for text, got 'mixup', which is for images"),
        ({"augmentation": "label_smoothing"}, "augmentation must be none for text"),
        ({"batch_size": 500}, "batch_size must be <= the 120 training examples, got 500"),
        ({"model": "small_cnn", "model_options": {}}, "model 'small_cnn' takes images, but the data set has text"),
        ({"model_options": {"context": 8}}, "context must be at most that of the model, 8 tokens, got 16"),
        ({"model": "hf:owner/name", "model_options": {}}, "set --download for a hub name"),
    ],
)
def test_what_cannot_run_is_refused_before_training(runtime: Runtime, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect([text_spec(**changes)], runtime)


def test_a_parent_above_the_ceiling_is_not_viable(runtime: Runtime) -> None:
    row = run_pair(text_spec(loss_ceiling=1.0, epochs=1), replace(runtime, measure=0)).result
    assert row.outcome == "not_viable"
    assert "is above the ceiling 1" in row.outcome_detail
    assert (row.tokens_per_example, row.bytes_per_token) == (16, 1.0)


def test_the_base_may_train_with_adamw(runtime: Runtime) -> None:
    task = prepare(text_spec(base={"steps": 20, "learning_rate": 0.01, "optimizer": "adamw"}), runtime).tasks[0]
    assert score_weights(task.model, task.base, *task.data.scored("val")).loss < 0.8 * math.log(256)
