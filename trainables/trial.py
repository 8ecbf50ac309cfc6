"""Which function runs a trial: the one seam between runners and trainables."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from .registry import Registry
from .result import PairOutput
from .runtime import Report, Runtime
from .spec import PairSpec


class RunTrials(Protocol):
    """Runs trials; all share everything but `repeat`."""

    def __call__(self, specs: Sequence[PairSpec], runtime: Runtime, report: Report = ...) -> list[PairOutput]:
        """Return one output per spec, in their order."""
        ...


# where they live, as text: the closed form must not load torch
TRAINABLES: Registry[str] = Registry("trainable")
TRAINABLES.add("pair", "trainables.pair:run_pairs")
TRAINABLES.add("synthetic", "trainables.synthetic:run_pairs")


def run_trials(specs: Sequence[PairSpec], runtime: Runtime, report: Report = lambda _: None) -> list[PairOutput]:
    """Run trials that share everything but `repeat` by the trainable that their spec names.

    Raises:
        UnknownName: No such trainable.
        ValueError: The spec cannot be run.
    """
    module, name = TRAINABLES[specs[0].trainable].split(":")
    return cast(RunTrials, getattr(import_module(module), name))(specs, runtime, report)
