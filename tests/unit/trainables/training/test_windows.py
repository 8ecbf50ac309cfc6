"""Means of a child's last checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.courses import finetune, make_courses
from tests.support.small_trials import linear_model, random_data
from trainables.spec import PairSpec
from trainables.training.loop import Seeds
from trainables.training.members import Members
from trainables.training.windows import MovingAverages, Window, WindowAverages, make_averages, read_window

SPEC = PairSpec("random", "any", learning_rate=0.05, batch_size=16, momentum=0.9, dtype="float64", steps=11)
SEEDS = [Seeds(order=2 * i, augment=2 * i + 1) for i in range(2)]
WINDOW = Window((2, 4), 3)


def test_a_window_is_read_from_its_options() -> None:
    assert read_window({}) == read_window({"size": 1}) == Window()
    assert read_window({"size": 4}) == Window((4,), 1)
    assert read_window({"size": [8, 2, 1, 2], "spacing": 5}) == Window((2, 8), 5)
    assert read_window({"size": 4, "kind": "ema"}) == Window((4,), 1, "ema")
    assert isinstance(make_averages(Window((4,), 1, "ema"), 9, 1), MovingAverages)
    assert isinstance(make_averages(Window((4,)), 9, 1), WindowAverages)


def test_the_last_checkpoint_is_the_end_and_each_belongs_to_one_segment() -> None:
    assert WINDOW.find_segments(11) == {11: 0, 8: 0, 5: 1, 2: 1}
    assert Window().find_segments(1) == {}
    with pytest.raises(ValueError, match="window must fit in the 9 steps of a child, got 4 checkpoints every 3 steps"):
        WINDOW.find_segments(9)


@pytest.mark.parametrize("stack", [1, 2])
def test_averages_are_the_means_of_the_weights_at_the_checkpoints(stack: int) -> None:
    seen: dict[tuple[int, int], dict[str, Tensor]] = {}

    def note(first: int, step: int, members: Members, optimizer: Any) -> None:
        seen.update({(first + i, step): w for i, w in enumerate(members.weights())})

    start = dict(linear_model().state_dict())
    args = (replace(SPEC, stack=stack), linear_model(), start, random_data(64), SEEDS)
    children = finetune(*args, window=WINDOW, on_step=note)
    for i, child in enumerate(children):
        assert list(child.windows) == [2, 4]
        for size, steps in ((2, (11, 8)), (4, (11, 8, 5, 2))):
            for key in start:
                mean = torch.stack([seen[i, step][key] for step in steps]).mean(0)
                torch.testing.assert_close(child.windows[size][key], mean, rtol=0, atol=1e-15)
    plain = finetune(*args)
    assert all(torch.equal(c.weights[k], p.weights[k]) for c, p in zip(children, plain, strict=True) for k in start)
    assert plain[0].windows == {}


def test_a_pause_and_a_snapshot_change_no_average() -> None:
    def course() -> Any:
        start = dict(linear_model().state_dict())
        return make_courses(SPEC, linear_model(), start, random_data(64), SEEDS[:1], window=WINDOW)[0]

    whole, first, second, third = course(), course(), course(), course()
    whole.advance()
    first.advance(6)
    second.restore(first.snapshot())
    second.advance()
    third.restore(second.snapshot())
    for other in (second, third):
        for size in (2, 4):
            found, wanted = other.children[0].windows[size], whole.children[0].windows[size]
            assert all(torch.equal(found[k], v) for k, v in wanted.items())


def test_constants_stay_exact_and_whole_numbers_come_from_the_end() -> None:
    averages = WindowAverages(Window((2, 3)), 3, 1)
    states = [
        {"w": torch.tensor([0.1, 3.0 + i]), "mask": torch.tensor([-torch.inf, 0.0]), "n": torch.tensor(i)}
        for i in range(3)
    ]
    for step, state in enumerate(states, 1):
        averages.add(step, lambda state=state: [state])
    found = averages.averages(0, states[-1])
    for size, mean in ((2, 4.5), (3, 4.0)):
        assert torch.equal(found[size]["w"], torch.tensor([0.1, mean]))
        assert torch.equal(found[size]["mask"], states[0]["mask"])
        assert found[size]["n"].item() == 2


@pytest.mark.parametrize("stack", [1, 2])
def test_moving_averages_are_those_of_the_formula(stack: int) -> None:
    seen: dict[tuple[int, int], dict[str, Tensor]] = {}

    def note(first: int, step: int, members: Members, optimizer: Any) -> None:
        seen.update({(first + i, step): w for i, w in enumerate(members.weights())})

    start = dict(linear_model().state_dict())
    args = (replace(SPEC, stack=stack), linear_model(), start, random_data(64), SEEDS)
    children = finetune(*args, window=Window((2, 4), 3, "ema"), on_step=note)
    for i, child in enumerate(children):
        assert list(child.windows) == [2, 4]
        # the end and every third step before it, oldest first
        for size, a in ((2, 2 / 3), (4, 2 / 5)):
            shares = {11: a, 8: a * (1 - a), 5: a * (1 - a) ** 2, 2: (1 - a) ** 3}
            assert sum(shares.values()) == pytest.approx(1)
            for key in start:
                wanted = sum(share * seen[i, step][key] for step, share in shares.items())
                torch.testing.assert_close(child.windows[size][key], wanted, rtol=0, atol=1e-15)


def test_a_moving_average_is_as_old_as_a_mean_and_forgets_its_start() -> None:
    ages = {}
    for kind in ("mean", "ema"):
        averages = make_averages(Window((5,), 1, kind), 1000, 1)
        for step in range(1, 1001):
            averages.add(step, lambda step=step: [{"w": torch.tensor(float(step), dtype=torch.float64)}])
        end = {"w": torch.tensor(1000.0, dtype=torch.float64)}
        ages[kind] = 1000 - float(averages.averages(0, end)[5]["w"])
    assert ages["mean"] == pytest.approx(2.0)
    assert ages["ema"] == pytest.approx(2.0, rel=1e-6)
    late = MovingAverages(Window((5,), 1, "ema"), 1000, 1)
    late.add(949, lambda: pytest.fail("so old that it does not count"))


def test_a_moving_average_keeps_constants_and_must_fit() -> None:
    averages = MovingAverages(Window((2,), 1, "ema"), 3, 1)
    state = {"mask": torch.tensor([-torch.inf, 0.1]), "n": torch.tensor(7)}
    for step in (1, 2, 3):
        averages.add(step, lambda: [state])
    found = averages.averages(0, state)[2]
    assert torch.equal(found["mask"], state["mask"])
    assert found["n"].item() == 7
    with pytest.raises(ValueError, match="window must fit in the 3 steps of a child, got 4 checkpoints every 1 steps"):
        MovingAverages(Window((4,), 1, "ema"), 3, 1)
