"""Trials of a configuration: specs, seeds and stacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search_spaces import Space
from sweeper.config.spec import SweepSpec
from trainables.spec import PairSpec

# from here on a stack of members is faster than a loop: 8 members at batches of up to 32 (docs/findings/speed.md)
STACK_MEMBERS, STACK_BATCH = 8, 32


def build(spec: SweepSpec, space: Space, params: Mapping[str, Any], repeat: int = 0) -> PairSpec:
    """Return a trial of a sweep: its space's, with the sweep's seed, and stacked where the sweep stacks."""
    trial = space.build(params, seed=spec.seed, repeat=repeat)
    large = 2 * spec.repeats >= STACK_MEMBERS and trial.batch_size <= STACK_BATCH
    stacked = spec.stack == "on" or (spec.stack == "auto" and large)
    return replace(trial, stack=spec.repeats) if stacked else trial
