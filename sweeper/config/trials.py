"""Trials of a configuration, with their seed and stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces import Space
from sweeper.config.spec import SweepSpec
from trainables.spec import PairSpec

# a stack of at least 8 members is faster than a loop at batches of up to 32 examples (docs/findings/speed.md)
STACK_MEMBERS, STACK_BATCH = 8, 32


def build(spec: SweepSpec, space: Space, params: Mapping[str, Any], repeat: int = 0) -> PairSpec:
    """Return a trial of a sweep, with the sweep's seed and the stack that the sweep chooses."""
    trial = space.build(params, seed=spec.seed, repeat=repeat)
    return replace(trial, stack=spec.repeats) if is_stacked(spec, trial) else trial


def is_stacked(spec: SweepSpec, trial: PairSpec) -> bool:
    """Return whether a sweep trains the repeats of a trial as one stack."""
    large = 2 * spec.repeats >= STACK_MEMBERS and trial.batch_size <= STACK_BATCH
    return spec.stack == "on" or (spec.stack == "auto" and large)
