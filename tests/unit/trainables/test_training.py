from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_trials import linear_model, random_data
from torch import Generator, nn

from trainables.augmentation import AUGMENTATIONS
from trainables.datasets import Data
from trainables.models import MODELS
from trainables.schedule import SCHEDULES
from trainables.spec import PairSpec
from trainables.training import (
    Child,
    Epoch,
    Seeds,
    build_model,
    epoch_batches,
    finetune,
    steps_per_epoch,
    train_base,
)

SPEC = PairSpec("random", "any", learning_rate=0.05, batch_size=16, momentum=0.9, weight_decay=1e-3, dtype="float64")
SEEDS = [Seeds(order=2 * i, augment=2 * i + 1) for i in range(6)]


def _cnn() -> nn.Module:
    return build_model(lambda: MODELS["small_cnn"](10, 1), 7, "cpu", torch.float64)


def _train(spec: PairSpec, model: nn.Module, data: Data, seeds: list[Seeds], **more: Any) -> list[Child]:
    start = {k: v.clone() for k, v in model.state_dict().items()}
    return finetune(spec, model, start, data, seeds, **more)


def _distance(a: Child, b: Child) -> float:
    return max(float((a.weights[k] - b.weights[k]).abs().max()) for k in a.weights)


def test_stack_and_loop_are_the_same_computation() -> None:
    # 4 steps an epoch, 20 in all
    spec = replace(SPEC, epochs=5, augmentation="shift", augmentation_strength=0.7)
    data = random_data(64)
    loop = _train(spec, _cnn(), data, SEEDS)
    stack = _train(replace(spec, stack=3), _cnn(), data, SEEDS)
    assert [c.history[-1].step for c in stack] == [20] * 6
    for one, other in zip(loop, stack, strict=True):
        assert list(one.weights) == list(other.weights)
        assert _distance(one, other) < 1e-8
        for mine, theirs in zip(one.history, other.history, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, abs=1e-8)
            assert mine.val.loss == pytest.approx(theirs.val.loss, abs=1e-8)
    assert _distance(loop[0], loop[1]) > 1e-3


class Oddities(nn.Module):
    """A frozen layer, one shared under two names, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 12).requires_grad_(False)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.head = nn.Linear(12, 10)
        self.register_buffer("offset", torch.ones(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.frozen(x.flatten(1)) + self.offset)
        return self.head(torch.tanh(self.second(torch.tanh(self.first(hidden)))))


def test_frozen_and_shared_parameters_train_alike_in_stack_and_loop() -> None:
    model = build_model(Oddities, 3, "cpu", torch.float64)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    children = [finetune(replace(SPEC, stack=n, epochs=2), model, start, random_data(64), SEEDS[:4]) for n in (1, 2)]
    for one, other in zip(*children, strict=True):
        assert list(one.weights) == list(other.weights) == list(start)
        assert _distance(one, other) < 1e-10
        for child in (one, other):
            assert torch.equal(child.weights["frozen.weight"], start["frozen.weight"])
            assert torch.equal(child.weights["first.weight"], child.weights["second.weight"])
            assert not torch.equal(child.weights["first.weight"], start["first.weight"])
            model.load_state_dict(child.weights)


def _by_hand(spec: PairSpec, data: Data, seeds: Seeds) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Softmax regression from 0 by v <- mu v + g + lambda w, w <- w - eta_t v; returns weight, bias, losses."""
    order, augment = Generator().manual_seed(seeds.order), Generator().manual_seed(seeds.augment)
    w, b = np.zeros((10, 64)), np.zeros(10)
    v, u = np.zeros_like(w), np.zeros_like(b)
    total, losses, step = len(data.y["train"]) // spec.batch_size * spec.epochs, [], 0
    for _ in range(spec.epochs):
        for images, labels in epoch_batches(data, spec, order, augment):
            x, y = images.flatten(1).numpy(), np.eye(10)[labels.numpy()]
            logits = x @ w.T + b
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            losses.append(-np.mean(np.sum(y * np.log(p), 1)))
            g, h = (p - y).T @ x / len(x), (p - y).mean(0)
            v, u = spec.momentum * v + g + spec.weight_decay * w, spec.momentum * u + h + spec.weight_decay * b
            eta = spec.learning_rate * SCHEDULES[spec.schedule](step, total, spec.warmup, spec.decay)
            w, b, step = w - eta * v, b - eta * u, step + 1
    return w, b, losses


@pytest.mark.parametrize("schedule", ["constant", "wsd"])
@pytest.mark.parametrize("stack", [1, 2])
def test_sgd_is_the_written_out_recursion(schedule: str, stack: int) -> None:
    spec = replace(SPEC, schedule=schedule, weight_decay=0.1, epochs=3, warmup=0.2, decay=0.3, stack=stack)
    data = random_data(64)
    for child, seeds in zip(_train(spec, linear_model(), data, SEEDS[:2]), SEEDS, strict=False):
        w, b, losses = _by_hand(spec, data, seeds)
        np.testing.assert_allclose(child.weights["1.weight"].numpy(), w, atol=1e-13)
        np.testing.assert_allclose(child.weights["1.bias"].numpy(), b, atol=1e-13)
        epochs = np.reshape(losses, (3, 4)).mean(1)
        assert [e.train_loss for e in child.history] == pytest.approx(epochs, abs=1e-12)
        rate = 0.05 * SCHEDULES[schedule](11, 12, 0.2, 0.3)
        assert child.history[-1].learning_rate == pytest.approx(rate)


def test_training_leaves_its_start_untouched() -> None:
    model = linear_model()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for stack in (1, 2):
        finetune(replace(SPEC, stack=stack, epochs=1), model, start, random_data(), SEEDS[:2])
        assert all(not v.any() for v in start.values())


@pytest.mark.parametrize(("examples", "batch", "steps"), [(720, 32, 22), (720, 128, 5), (720, 720, 1), (720, 361, 1)])
def test_the_last_incomplete_batch_is_dropped(examples: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(examples, batch) == steps
    data = random_data(examples)
    batches = list(epoch_batches(data, replace(SPEC, batch_size=batch), Generator(), Generator()))
    assert [len(y) for _, y in batches] == [batch] * steps


def test_an_epoch_shows_each_example_at_most_once_with_its_own_label() -> None:
    data = random_data(50)
    batches = list(epoch_batches(data, SPEC, Generator().manual_seed(1), Generator()))
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    which = (x[:, None].flatten(2) == data.x["train"][:][None].flatten(2)).all(2).nonzero()[:, 1]
    assert len(which.unique()) == len(y) == 48
    assert torch.equal(data.y["train"][which], y)


def test_epochs_differ_in_order_and_augmentation() -> None:
    spec, data = replace(SPEC, augmentation="shift", augmentation_strength=1.0), random_data(64)
    order, augment = Generator().manual_seed(1), Generator().manual_seed(2)
    first, second = ([y for _, y in epoch_batches(data, spec, order, augment)] for _ in range(2))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    x = next(epoch_batches(data, spec, Generator().manual_seed(1), Generator().manual_seed(2)))[0]
    index = torch.randperm(64, generator=Generator().manual_seed(1))
    wanted = AUGMENTATIONS["shift"].images(data.x["train"][index], 1.0, Generator().manual_seed(2))[:16]
    assert torch.equal(x, wanted)


@pytest.mark.parametrize("stack", [1, 2])
def test_a_batch_larger_than_the_data_is_refused(stack: int) -> None:
    spec = replace(SPEC, batch_size=65, stack=stack)
    with pytest.raises(ValueError, match="batch_size must be <= the 64 training examples, got 65"):
        _train(spec, linear_model(), random_data(64), SEEDS[:2])
    spec = replace(SPEC, base={"batch_size": 65})
    with pytest.raises(ValueError, match="base batch_size must be <= the 64 training examples, got 65"):
        train_base(spec, linear_model(), random_data(64))


@pytest.mark.parametrize("stack", [1, 2])
def test_divergence_is_dated_by_its_first_bad_loss(stack: int) -> None:
    data = random_data(64)
    data.x["train"][:][17] = torch.inf  # its batch's loss is the first that is not finite
    children = _train(replace(SPEC, stack=stack, epochs=2), linear_model(), data, SEEDS[:2])
    for child, seeds in zip(children, SEEDS, strict=False):
        position = torch.randperm(64, generator=Generator().manual_seed(seeds.order)).tolist().index(17)
        assert child.diverged_at == position // 16 + 1
        assert len(child.history) == 1  # no second epoch for children that are lost


def test_the_last_step_can_diverge_too() -> None:
    # a loss is finite before the step that breaks the weights
    spec = replace(SPEC, learning_rate=1e308, epochs=1, batch_size=64, schedule="constant", warmup=0.0)
    data = random_data(64)
    data.x["train"][:].mul_(1e10)
    (child,) = _train(spec, linear_model(), data, SEEDS[:1])
    assert np.isfinite(child.history[0].train_loss)
    assert child.diverged_at == 1


def test_one_lost_member_leaves_its_stack_mates_alone() -> None:
    data = random_data(64)
    data.x["train"][:][17] = torch.inf
    short = replace(SPEC, batch_size=60, epochs=1, stack=2)
    orders = [s for s in range(40) if 17 in torch.randperm(64, generator=Generator().manual_seed(s))[60:].tolist()]
    seeds = [Seeds(orders[0], 0), Seeds(orders[0] + 1, 0)]
    clean, lost = _train(short, linear_model(), data, seeds)
    assert (clean.diverged_at, lost.diverged_at) == (None, 1)
    (alone,) = _train(replace(short, stack=1), linear_model(), data, seeds[:1])
    assert _distance(clean, alone) < 1e-12


def test_progress_is_reported_by_child_and_epoch() -> None:
    seen: list[tuple[int, int, int]] = []

    def on_epoch(child: int, epoch: Epoch) -> None:
        seen.append((child, epoch.epoch, epoch.step))

    for stack in (1, 2):
        seen.clear()
        _train(replace(SPEC, epochs=2, stack=stack), linear_model(), random_data(64), SEEDS[:2], on_epoch=on_epoch)
        assert sorted(seen) == [(0, 1, 4), (0, 2, 8), (1, 1, 4), (1, 2, 8)]


def _dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).double()


@pytest.mark.parametrize("stack", [1, 2])
def test_dropout_draws_from_the_trials_own_streams(stack: int) -> None:
    results: list[list[Child]] = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = torch.random.get_rng_state()
            model = build_model(_dropout, 5, "cpu", torch.float64)
            model.load_state_dict(train_base(replace(SPEC, base={"steps": 6}), model, random_data(64)))
            results.append(_train(replace(SPEC, stack=stack, epochs=2), model, random_data(64), SEEDS[:2]))
            assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(*results, strict=True):
        assert all(torch.equal(one.weights[k], other.weights[k]) for k in one.weights)


def test_the_base_is_plain_sgd_at_a_constant_rate() -> None:
    spec = replace(SPEC, base={"steps": 6, "learning_rate": 0.1, "batch_size": 16, "momentum": 0.5, "seed": 3})
    data = random_data(64)
    got = train_base(spec, linear_model(), data)
    # 6 steps are an epoch of 4 and half of the next: written out, 8 steps are too many
    from trainables.spec import stream

    order = Generator().manual_seed(stream(spec.base_digest, "order"))
    batches = [*epoch_batches(data, spec, order, Generator()), *epoch_batches(data, spec, order, Generator())][:6]
    w, v = np.zeros((10, 65)), np.zeros((10, 65))
    for images, labels in batches:
        x, y = np.pad(images.flatten(1).numpy(), ((0, 0), (0, 1)), constant_values=1.0), np.eye(10)[labels.numpy()]
        p = np.exp(x @ w.T) / np.exp(x @ w.T).sum(1, keepdims=True)
        v = 0.5 * v + (p - y).T @ x / 16
        w = w - 0.1 * v
    np.testing.assert_allclose(got["1.weight"].numpy(), w[:, :64], atol=1e-13)
    np.testing.assert_allclose(got["1.bias"].numpy(), w[:, 64], atol=1e-13)


def test_a_base_that_diverges_says_what_to_lower() -> None:
    data = random_data(64)
    data.x["train"][:].fill_(torch.inf)
    with pytest.raises(ValueError, match=r"the base diverged with learning_rate 0\.02 in 60 steps; lower it"):
        train_base(SPEC, linear_model(), data)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    one, again, other = (build_model(lambda: nn.Linear(3, 2), s, "cpu", torch.float32).weight for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)
