from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from trainables.measurement.dose import dose


def test_it_is_the_written_out_sum() -> None:
    # (.1^2 2 + .2^2 3) / (4 .5^2)
    assert dose([0.1, 0.2], 4, 0.5, [2.0, 3.0]) == pytest.approx(0.14)


def test_measurements_are_joined_by_lines_and_held_at_the_ends() -> None:
    rates = [1.0] * 7
    # 4, 4, 4, 6, 8, 8, 8 at steps 0 ... 6
    assert dose(rates, 1, 0.0, {4: 8.0, 2: 4.0}) == pytest.approx(42.0)
    assert dose(rates, 1, 0.0, {0: 5.0}) == pytest.approx(35.0)


def test_two_children_of_pure_noise_part_by_twice_the_dose() -> None:
    rng = np.random.default_rng(0)
    steps, size, rate, momentum, batch = 400, 20_000, 0.1, 0.8, 4
    w, v = np.zeros((2, size)), np.zeros((2, size))
    for t in range(steps):
        # per-example noise of variance 1 in each parameter; no gradient in the last steps lets the momentum run out
        g = rng.normal(size=(2, size)) / math.sqrt(batch) if t < steps - 60 else 0.0
        v = momentum * v + g
        w -= rate * v
    wanted = 2 * dose([rate] * (steps - 60), batch, momentum, [float(size)] * (steps - 60))
    # a sum of 20,000 squares: relative standard error sqrt(2 / 20000) = 1 %
    assert np.sum((w[0] - w[1]) ** 2) == pytest.approx(wanted, rel=0.04)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be > 0, got 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"trace_sigma": [1.0]}, "one value for each of the 2 steps, got 1"),
        ({"trace_sigma": {}}, "at least one measurement, got none"),
    ],
)
def test_wrong_input_is_refused(change: dict[str, Any], message: str) -> None:
    right: dict[str, Any] = {"rates": [0.1, 0.1], "batch_size": 4, "momentum": 0.5, "trace_sigma": [1.0, 1.0]}
    with pytest.raises(ValueError, match=message):
        dose(**{**right, **change})


def test_batch_sizes_of_every_step() -> None:
    assert dose([0.1, 0.2], [4, 2], 0.5, [2.0, 3.0]) == pytest.approx(4 * (0.01 * 2 / 4 + 0.04 * 3 / 2))
    with pytest.raises(ValueError, match="batch_size must be > 0"):
        dose([0.1, 0.2], [4, 0], 0.5, [2.0, 3.0])


def test_one_batch_size_keeps_the_digits_of_stored_rows() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 10, 48):
        rates, traces = rng.uniform(0.01, 0.3, 50), rng.uniform(1, 9, 50)
        stored = float(np.dot(np.square(rates), traces) / (size * (1.0 - 0.9) ** 2))
        assert dose(list(rates), size, 0.9, list(traces)) == stored
