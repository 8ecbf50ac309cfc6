"""Trials of a configuration, with their seed, their stack and their training budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from search_spaces import Space
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import number, pluralize
from trainables.spec import PairSpec

# a stack of at least 8 members is faster than a loop at batches of up to 32 examples (docs/findings/speed.md)
STACK_MEMBERS, STACK_BATCH = 8, 32
FEWEST_STEPS = 10
"""Steps of a shortened trial, at least: with fewer, warm-up and decay lose their shares."""
BUDGETS = ("epochs", "steps", "branch_step")
"""Fields of a trial that hold its training budget."""


def build(
    spec: SweepSpec, space: Space, params: Mapping[str, Any], repeat: int = 0, *, proxy: bool = False
) -> PairSpec:
    """Return a trial of a sweep, with the sweep's seed and the stack that the sweep chooses.

    Args:
        spec: The sweep.
        space: Its search space.
        params: Value of every knob that acts.
        repeat: Number of the repeat.
        proxy: Whether the trial has the training budget of the sweep's proxy.
    """
    trial = space.build(params, seed=spec.seed, repeat=repeat)
    if proxy and spec.proxy is not None:
        trial = shorten(trial, spec.proxy)
    return replace(trial, stack=spec.repeats) if is_stacked(spec, trial) else trial


def is_stacked(spec: SweepSpec, trial: PairSpec) -> bool:
    """Return whether a sweep trains the repeats of a trial as one stack."""
    large = 2 * spec.repeats >= STACK_MEMBERS and trial.batch_size <= STACK_BATCH
    return spec.stack == "on" or (spec.stack == "auto" and large)


def shorten(trial: PairSpec, share: float) -> PairSpec:
    """Return a trial with a share of its training budget, and the same shape of the schedule.

    Warm-up, decay and noise schedule are shares of the training, so they keep theirs. A trial has at least one epoch,
    or `FEWEST_STEPS` steps. The trunk of protocol `branch` and the distance of averaged checkpoints shorten, too.
    """
    changes: dict[str, Any] = {name: _scale(getattr(trial, name), share) for name in ("steps", "branch_step")}
    if not trial.steps:
        changes["epochs"] = max(1, round(share * trial.epochs))
    if "spacing" in trial.window:
        changes["window"] = {**trial.window, "spacing": max(1, round(share * trial.window["spacing"]))}
    return replace(trial, **changes)


def _scale(steps: int, share: float) -> int:
    return max(min(steps, FEWEST_STEPS), round(share * steps))


def measure_share(short: PairSpec, full: PairSpec) -> float:
    """Return the training budget of a shortened child as a share of the full one, in (0, 1]."""
    return short.steps / full.steps if full.steps else short.epochs / full.epochs


def check_proxy(spec: SweepSpec, space: Space, trials: Iterable[PairSpec]) -> None:
    """Check that the trials of a sweep have one training budget that its proxy can shorten.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Trials of the space.

    Raises:
        SpecError: The budget is a knob, or too small.
    """
    if spec.proxy is None:
        return
    if knob := next((name for name in BUDGETS if name in space.knobs), None):
        raise SpecError(
            f"proxy needs one training budget, and {knob} is a knob: give it one value (--set {knob}=N), or leave "
            "proxy out"
        )
    for trial in trials:
        if measure_share(shorten(trial, spec.proxy), trial) >= 1:
            budget = pluralize(trial.steps, "step") if trial.steps else pluralize(trial.epochs, "epoch")
            least = f"{FEWEST_STEPS} steps" if trial.steps else "1 epoch"
            raise SpecError(
                f"proxy {number(spec.proxy)} of {budget} leaves nothing out, since a trial has at least {least}: "
                "raise the budget, or leave proxy out"
            )
