"""Which module runs a trial: the one seam between runners and trainables."""

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
        """Check that the trials can be run and return the first one's number of training examples, N."""
        ...


# as text: the closed form must not load torch
TRAINABLES: Registry[str] = Registry("trainable")
TRAINABLES.add("pair", "trainables.pair.run")
TRAINABLES.add("synthetic", "trainables.pair.synthetic")

IMPORTED = "imported"
"""The trainable of trials that a table from elsewhere holds: nothing here can run them."""


def _module(spec: PairSpec) -> Trainable:
    if spec.trainable == IMPORTED:
        raise ValueError("it was trained elsewhere and imported from a table: nothing here can run it")
    return cast(Trainable, import_module(TRAINABLES[spec.trainable]))


def run_trials(
    specs: Sequence[PairSpec],
    runtime: Runtime,
    report: Report = lambda _: None,
    peers: Sequence[Sequence[Any]] = (),
) -> list[PairOutput]:
    """Run trials that share everything but `repeat` by the trainable that their spec names.

    Args:
        specs: The trials.
        runtime: Where to run.
        report: See `trainables.pair.run.run_pair`.
        peers: Processes that help, see `trainables.pair.processes`; a trainable in closed form has no use for them.

    Raises:
        UnknownName: No such trainable.
        ValueError: The spec cannot be run.
    """
    return _module(specs[0]).run_pairs(specs, runtime, report, peers)


def inspect(specs: Sequence[PairSpec], runtime: Runtime) -> int:
    """Check that trials can be run, without training, and return the first one's number of training examples, N.

    Raises:
        UnknownName: A name that nothing is registered under.
        ValueError: Missing data, wrong options, or a batch larger than the training set.
    """
    return _module(specs[0]).inspect(specs, runtime)
