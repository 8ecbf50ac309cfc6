"""The servo on the measured noise: its estimate of tr Sigma, its controller, and whole trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from tests.support.small_trials import digits_spec
from trainables.pair.run import run_pair
from trainables.runtime import Runtime
from trainables.training.servo import DIVERGING, STEP, Controller, NoServo, Servo, Steering, make_servo

QUIET = Runtime(measure=0)


def _feed(servo: Servo, steps: int, sizes: Sequence[int], spread: float, mean: float = 0.0) -> None:
    """Give the servo gradients [50] of batches whose examples have a spread and a mean in every entry."""
    draws = Generator().manual_seed(1)
    for step in range(steps):
        servo.steer(step, [])
        p = torch.zeros(50, dtype=torch.float64, requires_grad=True)
        noise = torch.randn(50, generator=draws, dtype=torch.float64)
        p.grad = mean + spread * noise / math.sqrt(sizes[step % len(sizes)])
        servo.note(step, [p])


def _traces(servo: Servo) -> Tensor:
    return torch.stack(servo.snapshot()["traces"])


@pytest.mark.parametrize("sizes", [(8,), (8, 2)])
def test_differences_of_gradients_estimate_the_trace(sizes: tuple[int, ...]) -> None:
    servo = Servo({"every": 4000}, range(4000), lambda step: sizes[step % len(sizes)])
    servo.window = 4000
    _feed(servo, 4000, sizes, spread=0.3, mean=7.0)
    traces = _traces(servo)
    assert len(traces) == 2000
    # tr Sigma = 50 * .09, and the mean gradient cancels
    assert float(traces.mean()) == pytest.approx(4.5, abs=4 * float(traces.std()) / math.sqrt(2000))


def test_only_the_last_steps_before_a_correction_count() -> None:
    servo = Servo({"every": 30}, range(10, 100), lambda step: 4)
    _feed(servo, 40, (4,), spread=1.0)
    assert len(_traces(servo)) == 8  # steps 24 to 39
    servo.steer(40, [])
    assert servo.snapshot()["traces"] == []
    assert servo.controller.reference is not None
    odd = Servo({"every": 9}, range(100), lambda step: 4)
    _feed(odd, 9, (4,), spread=1.0)
    assert len(_traces(odd)) == 4


def test_the_factor_follows_the_trace_in_bounded_steps() -> None:
    controller = Controller(smoothing=1.0, limit=2.0)
    controller.update(10, 8.0, 0.1, 1.0)
    assert (controller.factor, controller.changes) == (1.0, [])
    for step in (20, 30, 40, 50):
        controller.update(step, 2.0, 0.1, 1.0)
    assert [f for _, f in controller.changes] == pytest.approx([STEP, STEP**2, STEP**3, 2.0])
    controller.update(60, 7.0, 0.1, 1.0)
    assert controller.factor == pytest.approx(2.0 / STEP)
    for step in (70, 80, 90, 100, 110, 120, 130):
        controller.update(step, 160.0, 0.1, 1.0)
    assert controller.factor == 0.5


def test_a_trace_is_smoothed_in_logarithms() -> None:
    controller = Controller(smoothing=0.25, limit=100.0)
    controller.update(10, 1.0, 0.01, math.nan)
    controller.update(20, 1.5, 0.01, 1.0)
    assert controller.factor == pytest.approx(1.5**-0.25)


@pytest.mark.parametrize(("trace", "error"), [(1.0, 0.6), (-1.0, 0.1), (math.nan, 0.1), (1.0, math.nan), (1.0, 0.0)])
def test_a_measurement_without_signal_changes_nothing(trace: float, error: float) -> None:
    controller = Controller(smoothing=1.0)
    controller.update(10, 2.0, 0.1, 1.0)
    controller.update(20, trace, error, 1.0)
    assert controller.factor == 1.0
    assert controller.level == math.log(2.0)


@pytest.mark.parametrize(("before", "after"), [(0.5, 1.0), (8.0, 0.8)])
def test_it_goes_off_near_divergence(before: float, after: float) -> None:
    controller = Controller(smoothing=1.0)
    for step, trace in ((10, 1.0), (20, before)):
        controller.update(step, trace, 0.01, 0.5)
    controller.update(30, before, 0.01, 0.5 * DIVERGING * 1.01)
    assert (controller.off, controller.factor) == (30, pytest.approx(after))
    controller.update(40, 100.0, 0.01, 0.5)
    assert controller.factor == pytest.approx(after)
    lost = Controller()
    lost.update(10, 1.0, 0.01, math.inf)
    assert lost.off == 10


def test_steering_by_step() -> None:
    steering = Steering(((5, 1.25), (9, 0.5)))
    assert [steering.at(t) for t in (0, 4, 5, 8, 9, 99)] == [1.0, 1.0, 1.25, 1.25, 0.5, 0.5]
    assert isinstance(make_servo({}, range(9), lambda step: 1), NoServo)


# -- in trials --------------------------------------------------------------------------------------------------------

SPEC = digits_spec(epochs=8, merges=("linear",), servo={"every": 16}, augmentation="none")


def test_it_holds_the_measured_noise_better_than_an_open_loop() -> None:
    runs = {name: run_pair(s, Runtime(measure=8)) for name, s in (("servo", SPEC), ("open", replace(SPEC, servo={})))}
    drifts: dict[str, float] = {}
    for name, output in runs.items():
        # measured apart from the servo, in the stable phase
        noises = [h.learning_rate * h.trace_sigma for h in output.history if h.trace_sigma and h.epoch <= 6]
        assert len(noises) >= 8
        half = len(noises) // 2 // 2
        drifts[name] = abs(math.log(sum(noises[-half:]) / sum(noises[:half])))
    assert drifts["servo"] < drifts["open"]
    row, plain = runs["servo"].result, runs["open"].result
    assert row.schedule_start == 1.0
    assert row.schedule_end != 1.0
    assert row.noises["paper"] == plain.noises["paper"]
    assert plain.schedule_mean is None
    assert row.schedule_mean is not None
    assert row.scores == run_pair(SPEC, Runtime(measure=8)).result.scores


def test_the_decay_starts_from_the_last_factor_and_rungs_follow_it() -> None:
    whole, with_rungs = run_pair(SPEC, QUIET), run_pair(SPEC, Runtime(measure=0, rungs=2))
    assert with_rungs.result.scores == whole.result.scores
    assert len(with_rungs.rungs) == 2
    last = [h for h in whole.history if h.member == "a"][-1]
    plain = [h for h in run_pair(replace(SPEC, servo={}), QUIET).history if h.member == "a"][-1]
    assert last.learning_rate / plain.learning_rate == pytest.approx(whole.result.schedule_end)


def test_trials_without_a_servo_keep_their_digest() -> None:
    assert digits_spec(servo={}).digest == digits_spec().digest
    assert SPEC.digest != replace(SPEC, servo={}).digest
