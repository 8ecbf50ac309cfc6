"""Trials of a configuration, with their seed, their stack and their training budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from search_spaces import Space
from search_spaces._entries import is_part_of
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.formatting import number, pluralize
from trainables.spec import PairSpec
from trainables.spec.rules import FEWEST_BETWEEN

# a stack of at least 8 members is faster than a loop at batches of up to 32 examples (docs/findings/speed.md)
STACK_MEMBERS, STACK_BATCH = 8, 32
FEWEST_STEPS = 10
"""Steps of a shortened trial, at least: with fewer, warm-up and decay lose their shares."""
SHORTENED = ("epochs", "steps", "branch_step", "window.spacing", "servo.every")
"""Fields of a trial, and entries of fields, that `shorten` changes."""


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
    trial = space.build(params, seed=spec.seed, repeat=repeat, graphs=spec.graphs)
    if proxy and spec.proxy is not None:
        trial = shorten(trial, spec.proxy)
    return replace(trial, stack=spec.repeats) if is_stacked(spec, trial) else trial


def is_stacked(spec: SweepSpec, trial: PairSpec) -> bool:
    """Return whether a sweep trains the repeats of a trial as one stack.

    Raises:
        SpecError: The sweep asks for stacks, and the trial cannot be part of one.
    """
    if trial.apart:
        if spec.stack == "on" and spec.repeats > 1:
            raise SpecError(f"stack on trains repeats as one, which trials {trial.apart} cannot: use --stack off")
        return False
    large = 2 * spec.repeats >= STACK_MEMBERS and trial.batch_size <= STACK_BATCH
    return spec.stack == "on" or (spec.stack == "auto" and large)


def shorten(trial: PairSpec, share: float) -> PairSpec:
    """Return a trial with a share of its training budget, and the same shape of the schedule.

    Warm-up, decay and noise schedule are shares of the training, so they keep theirs. A trial has at least one epoch,
    or `FEWEST_STEPS` steps. The trunk of protocol `branch`, the distance of averaged checkpoints and that of a servo's
    measurements shorten, too.
    """
    changes: dict[str, Any] = {name: _scale(getattr(trial, name), share) for name in ("steps", "branch_step")}
    if not trial.steps:
        changes["epochs"] = max(1, round(share * trial.epochs))
    if "spacing" in trial.window:
        changes["window"] = {**trial.window, "spacing": max(1, round(share * float(trial.window["spacing"])))}
    if "every" in trial.servo:
        changes["servo"] = {**trial.servo, "every": max(FEWEST_BETWEEN, round(share * float(trial.servo["every"])))}
    return replace(trial, **changes)


def _scale(steps: int, share: float) -> int:
    return max(min(steps, FEWEST_STEPS), round(share * steps))


def measure_share(short: PairSpec, full: PairSpec) -> float:
    """Return the training budget of a shortened child as a share of the full one, in (0, 1]."""
    return short.steps / full.steps if full.steps else short.epochs / full.epochs


def shorten_all(trials: Iterable[PairSpec], share: float) -> list[PairSpec]:
    """Return the trials with a share of their training budget, as in the map of a sweep with this proxy.

    Raises:
        SpecError: A shortened trial breaks a rule.
    """
    try:
        return [shorten(trial, share) for trial in trials]
    except ValueError as error:
        raise SpecError(blame_proxy(share, error)) from None


def blame_proxy(share: float, error: Exception) -> str:
    """Return the line about a rule that a trial breaks with a share of its training budget, but not in full."""
    return f"a trial of the map at proxy {number(share)} cannot run: {error}, or leave proxy out"


def check_proxy(spec: SweepSpec, space: Space, trials: Sequence[PairSpec]) -> None:
    """Check that the proxy of a sweep can shorten its trials, and changes none of their knobs.

    A knob that `shorten` changes would have another value in the trial than in the proposal.

    Args:
        spec: The sweep.
        space: Its search space.
        trials: Trials of the space.

    Raises:
        SpecError: `shorten` changes a knob, a shortened trial breaks a rule, or the budget is too small.
    """
    if spec.proxy is None:
        return
    if knob := next((k for k in space.knobs if any(is_part_of(name, k) for name in SHORTENED)), None):
        raise SpecError(
            f"proxy shortens {knob}, and {knob} is a knob: give it one value (--set {knob}=VALUE), or leave proxy out"
        )
    for trial, short in zip(trials, shorten_all(trials, spec.proxy), strict=True):
        if measure_share(short, trial) >= 1:
            budget = pluralize(trial.steps, "step") if trial.steps else pluralize(trial.epochs, "epoch")
            least = f"{FEWEST_STEPS} steps" if trial.steps else "1 epoch"
            raise SpecError(
                f"proxy {number(spec.proxy)} of {budget} leaves nothing out, since a trial has at least {least}: "
                "raise the budget, or leave proxy out"
            )
