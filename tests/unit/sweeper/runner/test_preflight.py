"""Checks before the first trial: the trials in full, and those that a proxy shortens."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper import SweepSpec
from sweeper.config.prepared import PreparedSweep, prepare, set_defaults
from sweeper.errors import SpecError
from sweeper.runner.preflight import check_sweep


def digits(size: int, **more: Any) -> PreparedSweep:
    values = {"space": "digits_cnn", "fixed": {"steps": 40, "window": {"size": size}}, **more}
    return set_defaults(prepare(SweepSpec.checked(values)))


def test_a_shortened_trial_that_cannot_run_is_refused_before_the_map() -> None:
    assert check_sweep(digits(20)).constants["examples"] == 720
    with pytest.raises(SpecError, match=r"proxy 0.25 cannot run: window must fit in the 10 steps of a child") as caught:
        check_sweep(digits(20, proxy=0.25))
    assert str(caught.value).endswith("lower window.size or window.spacing, or leave proxy out")
    assert "\n" not in str(caught.value)


def test_a_shortened_trial_leaves_the_constants_alone() -> None:
    assert check_sweep(digits(8, proxy=0.25)).constants == check_sweep(digits(8)).constants


def test_a_trial_that_cannot_run_in_full_is_no_fault_of_the_proxy() -> None:
    with pytest.raises(SpecError, match=r"^window must fit in the 40 steps of a child"):
        check_sweep(digits(50, proxy=0.25))
