"""Trainables by name: modules that run trials, the interface between runners and this package."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from trainables.registry import Registry
from trainables.result import PairOutput
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec


class Trainable(Protocol):
    """A module that runs trials."""

    def run_pairs(
        self, specs: Sequence[PairSpec], runtime: Runtime, report: Report = ..., peers: Sequence[Sequence[Any]] = ...
    ) -> list[PairOutput]:
        """Return one output per spec, in their order; the specs share everything but `repeat`."""
        ...

    def inspect(self, specs: Sequence[PairSpec], runtime: Runtime) -> int:
        """Check that the trials can run and return N, the training examples of the first one."""
        ...


# as text, because the closed form must not load torch
TRAINABLES: Registry[str] = Registry("trainable")
TRAINABLES.add("pair", "trainables.pair.run")
TRAINABLES.add("synthetic", "trainables.pair.synthetic")

IMPORTED = "imported"
"""Trainable of trials from an imported table, which cannot run."""


def _module(spec: PairSpec) -> Trainable:
    if spec.trainable == IMPORTED:
        raise ValueError("this trial comes from an imported table and cannot run")
    return cast(Trainable, import_module(TRAINABLES[spec.trainable]))


def run_trials(
    specs: Sequence[PairSpec],
    runtime: Runtime,
    report: Report = lambda _: None,
    peers: Sequence[Sequence[Any]] = (),
) -> list[PairOutput]:
    """Run trials that differ only in `repeat` by the trainable of their spec.

    Args:
        specs: The trials.
        runtime: Where to run.
        report: See `trainables.pair.run.run_pair`.
        peers: Further processes, see `trainables.pair.processes`; closed forms ignore them.

    Raises:
        UnknownName: No such trainable.
        ValueError: The spec cannot run.
    """
    return _module(specs[0]).run_pairs(specs, runtime, report, peers)


def inspect(specs: Sequence[PairSpec], runtime: Runtime) -> int:
    """Check that trials can run, without training, and return N, the training examples of the first one.

    Raises:
        UnknownName: A name is not registered.
        ValueError: Missing data, wrong options, or a batch larger than the training set.
    """
    return _module(specs[0]).inspect(specs, runtime)
