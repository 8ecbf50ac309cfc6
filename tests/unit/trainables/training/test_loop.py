from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, nn

from tests.support.courses import finetune
from tests.support.small_trials import built, linear_model, random_data
from trainables.datasets.load import Data
from trainables.models.registry import MODELS
from trainables.spec import PairSpec
from trainables.tasks.batches import epoch_batches
from trainables.training.base import train_base
from trainables.training.child import Child, Epoch
from trainables.training.legs import Leg
from trainables.training.loop import Seeds
from trainables.training.members import Members
from trainables.training.schedules import SCHEDULES

SPEC = PairSpec("random", "any", learning_rate=0.05, batch_size=16, momentum=0.9, weight_decay=1e-3, dtype="float64")
SEEDS = [Seeds(order=2 * i, augment=2 * i + 1) for i in range(6)]


def _cnn() -> nn.Module:
    return built(lambda: MODELS["small_cnn"](10, 1))


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


@pytest.mark.parametrize("stack", [1, 2])
def test_children_of_adam_hold_their_second_moments_times_the_batch_size(stack: int) -> None:
    gradients: list[list[torch.Tensor]] = [[], []]

    def note(first: int, step: int, members: Members, optimizer: Any) -> None:
        for i in range(members.members):
            grad = members.parameters[0].grad
            assert grad is not None
            gradients[first + i].append((grad[i] if stack > 1 else grad).clone())

    spec = replace(SPEC, optimizer="adamw", momentum=0.0, beta2=0.7, steps=3, stack=stack)
    children = _train(spec, linear_model(), random_data(64), SEEDS[:2], keep_moments=True, on_step=note)
    for child, own in zip(children, gradients, strict=True):
        v = torch.zeros_like(own[0])
        for g in own:
            v = 0.7 * v + 0.3 * g**2
        assert child.moments is not None
        torch.testing.assert_close(child.moments["1.weight"], spec.batch_size * v / (1 - 0.7**3), rtol=1e-12, atol=0)
    assert _train(spec, linear_model(), random_data(64), SEEDS[:1])[0].moments is None


class Oddities(nn.Module):
    """A frozen layer, one shared under two names, and a buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 12).requires_grad_(False)
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)
        self.second.weight = self.first.weight
        self.head = nn.Linear(12, 10)
        self.register_buffer("offset", torch.ones(12))
        self.register_buffer("offset_again", self.offset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.frozen(x.flatten(1)) + self.offset)
        return self.head(torch.tanh(self.second(torch.tanh(self.first(hidden)))))


def test_frozen_and_shared_parameters_train_alike_in_stack_and_loop() -> None:
    model = built(Oddities, 3)
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


@pytest.mark.parametrize("stack", [1, 2])
def test_a_batch_larger_than_the_data_is_refused(stack: int) -> None:
    spec = replace(SPEC, batch_size=65, stack=stack)
    with pytest.raises(ValueError, match="batch_size must be <= the 64 training examples, got 65"):
        _train(spec, linear_model(), random_data(64), SEEDS[:2])
    spec = replace(SPEC, base={"batch_size": 65})
    with pytest.raises(ValueError, match="base batch_size must be <= the 64 training examples, got 65"):
        train_base(spec, [linear_model()], [random_data(64)])


def _one_infinite(x: torch.Tensor) -> None:
    x[17] = torch.inf


@pytest.mark.parametrize("stack", [1, 2])
def test_divergence_is_dated_by_its_first_bad_loss(stack: int) -> None:
    data = random_data(64, spoil=_one_infinite)  # its batch's loss is the first that is not finite
    children = _train(replace(SPEC, stack=stack, epochs=2), linear_model(), data, SEEDS[:2])
    for child, seeds in zip(children, SEEDS, strict=False):
        position = torch.randperm(64, generator=Generator().manual_seed(seeds.order)).tolist().index(17)
        assert child.diverged_at == position // 16 + 1
        assert len(child.history) == 1  # no second epoch for children that are lost


def test_the_last_step_can_diverge_too() -> None:
    # a loss is finite before the step that breaks the weights
    spec = replace(SPEC, learning_rate=1e308, epochs=1, batch_size=64, schedule="constant", warmup=0.0)
    data = random_data(64, spoil=lambda x: x.mul_(1e10))
    (child,) = _train(spec, linear_model(), data, SEEDS[:1])
    assert np.isfinite(child.history[0].train_loss)
    assert child.diverged_at == 1


def test_one_lost_member_leaves_its_stack_mates_alone() -> None:
    data = random_data(64, spoil=_one_infinite)
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
            model = built(_dropout, 5)
            model.load_state_dict(train_base(replace(SPEC, base={"steps": 6}), [model], [random_data(64)])[0])
            results.append(_train(replace(SPEC, stack=stack, epochs=2), model, random_data(64), SEEDS[:2]))
            assert torch.equal(torch.random.get_rng_state(), before)
    for one, other in zip(*results, strict=True):
        assert all(torch.equal(one.weights[k], other.weights[k]) for k in one.weights)


def test_the_base_is_plain_sgd_at_a_constant_rate() -> None:
    spec = replace(SPEC, base={"steps": 6, "learning_rate": 0.1, "batch_size": 16, "momentum": 0.5, "seed": 3})
    data = random_data(64)
    (got,) = train_base(spec, [linear_model()], [data])
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
    data = random_data(64, spoil=lambda x: x.fill_(torch.inf))
    with pytest.raises(ValueError, match=r"the base diverged with learning_rate 0\.02 in 60 steps; lower it"):
        train_base(SPEC, [linear_model()], [data])


# -- budgets, clipping, precision -------------------------------------------------------------------------------------


def test_a_budget_of_steps_ends_inside_an_epoch() -> None:
    seen: list[int] = []
    spec = replace(SPEC, steps=10, epochs=1)
    (child,) = _train(spec, linear_model(), random_data(64), SEEDS[:1], on_step=lambda _, s, *__: seen.append(s))
    assert [(e.epoch, e.step) for e in child.history] == [(1, 4), (2, 8), (3, 10)]
    assert seen == list(range(1, 11))
    (same,) = _train(replace(SPEC, epochs=2), linear_model(), random_data(64), SEEDS[:1])
    (short,) = _train(replace(SPEC, steps=8), linear_model(), random_data(64), SEEDS[:1])
    assert _distance(same, short) == 0.0


def test_clipping_bounds_the_step_and_is_counted() -> None:
    plain = replace(SPEC, momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0.0, steps=4)
    free, never, always = (
        _train(replace(plain, clip_norm=c), linear_model(), random_data(64), SEEDS[:1])[0] for c in (0.0, 1e9, 1e-3)
    )
    assert _distance(free, never) < 1e-15
    assert (free.clipped_fraction, never.clipped_fraction, always.clipped_fraction) == (0.0, 0.0, 1.0)
    moved = torch.cat([v.flatten() for v in always.weights.values()])
    assert 0 < float(moved.norm()) <= 4 * 0.05 * 1e-3 * (1 + 1e-6)


def test_bfloat16_forward_passes_keep_the_weights_in_full_precision() -> None:
    spec, data = replace(SPEC, dtype="float32"), random_data(64).to("cpu", torch.float32)
    full, mixed = (_train(replace(spec, autocast=a), _cnn().float(), data, SEEDS[:1])[0] for a in ("", "bfloat16"))
    assert all(v.dtype == torch.float32 for v in mixed.weights.values())
    assert mixed.history[-1].train_loss == pytest.approx(full.history[-1].train_loss, rel=0.05)
    assert _distance(full, mixed) > 0


def test_weight_norms_are_recorded() -> None:
    (child,) = _train(SPEC, linear_model(), random_data(64), SEEDS[:1])
    flat = torch.cat([v.flatten() for v in child.weights.values()])
    assert child.history[-1].weight_norm == pytest.approx(float(flat.norm()), rel=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stack", [1, 2])
def test_training_continues_from_an_optimizer_state_as_if_it_had_not_stopped(optimizer: str, stack: int) -> None:
    momentum = 0.9 if optimizer == "sgd" else 0.0
    spec = replace(SPEC, optimizer=optimizer, momentum=momentum, learning_rate=0.01, schedule="constant", warmup=0.0)
    data, leg = random_data(32, spoil=lambda x: x[16:].copy_(x[:16])), Leg(6, lambda _: 0.01)
    data = replace(data, y={**data.y, "train": data.y["train"][:16].repeat(2)})
    whole = replace(spec, batch_size=32)  # the batch is the data: no order to continue
    (straight,) = _train(whole, linear_model(), data, SEEDS[:1], leg=leg)
    (first,) = _train(whole, linear_model(), data, SEEDS[:1], leg=Leg(2, leg.rate), keep_state=True)
    assert first.state is not None
    rest = finetune(
        replace(whole, stack=stack), linear_model(), first.weights, data, SEEDS[1:3], leg=Leg(4, leg.rate),
        state=first.state,
    )  # fmt: skip
    for child in rest:
        assert _distance(straight, child) < 1e-14


def test_children_may_train_on_different_data() -> None:
    one, other = random_data(64), random_data(64, spoil=lambda x: x.neg_())
    for stack in (1, 2):
        a, b = _train(replace(SPEC, stack=stack), linear_model(), [one, other], SEEDS[:2])
        (alone,) = _train(SPEC, linear_model(), other, SEEDS[1:2])
        assert _distance(b, alone) < 1e-12
        assert _distance(a, b) > 1e-3


@pytest.mark.soak  # compiles for half a minute
def test_compiled_training_is_the_same_computation() -> None:
    plain, compiled = (
        _train(replace(SPEC, compile=c, epochs=2), _cnn(), random_data(64), SEEDS[:1])[0] for c in (False, True)
    )
    assert _distance(plain, compiled) < 1e-12
