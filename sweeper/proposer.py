"""Proposers: which configuration comes next. Designs are functions of (seed, number); studies learn from results."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from search_spaces import Space

from .objective import OBJECTIVES
from .samplers import SAMPLERS
from .spec import SweepSpec


@dataclass(frozen=True)
class Proposal:
    """One configuration to try.

    Attributes:
        params: Value of every knob.
        target: Noise the sampler aimed at; None for samplers that do not aim.
        thoughts: What the sampler says about it (origin, optimum, optimum_low, optimum_high, exponents).
        seconds: Time the sampler took.
    """

    params: dict[str, Any]
    target: float | None = None
    thoughts: Mapping[str, Any] | None = None
    seconds: float = 0.0


class Proposer(Protocol):
    """Source of configurations."""

    def ask(self, number: int) -> Proposal | None:
        """Return the configuration with this number, or None where there are no more."""
        ...

    def tell(self, number: int, value: float | None) -> None:
        """Say how a configuration that was asked for ended; None: it failed."""
        ...

    def add(self, params: Mapping[str, Any], value: float | None) -> None:
        """Add a configuration that was finished in an earlier run."""
        ...


class DesignProposer:
    """Point `number` of a design: resuming fills the missing numbers with the same points."""

    def __init__(self, spec: SweepSpec, space: Space) -> None:
        self.spec, self.space = spec, space

    def ask(self, number: int) -> Proposal | None:
        """See `Proposer.ask`."""
        design = SAMPLERS[self.spec.sampler].design
        assert design is not None
        start = time.perf_counter()
        params = design(self.space.knobs, self.spec.seed, number, self.spec.trials)
        return None if params is None else Proposal(params, seconds=time.perf_counter() - start)

    def tell(self, number: int, value: float | None) -> None:
        """Nothing to learn."""

    def add(self, params: Mapping[str, Any], value: float | None) -> None:
        """Nothing to learn."""


class StudyProposer:
    """An Optuna study in memory: a cache, rebuilt from the run folder on resume."""

    def __init__(self, spec: SweepSpec, space: Space, constants: Mapping[str, float]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        make = SAMPLERS[spec.sampler].make
        assert make is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = make(seed=spec.seed, knobs=space.knobs, noise=spec.noise, constants=constants)
        direction = "maximize" if OBJECTIVES[spec.objective].maximize else "minimize"
        self.study = optuna.create_study(sampler=sampler, direction=direction)
        self.knobs = dict(space.knobs)
        self.open: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> Proposal:
        """See `Proposer.ask`."""
        start = time.perf_counter()
        trial = self.study.ask(fixed_distributions=self.knobs)
        params = dict(trial.params)
        seconds = time.perf_counter() - start
        self.open[number] = trial
        target, thoughts = self._thoughts(trial)
        return Proposal(params, target, thoughts, seconds)

    def _thoughts(self, trial: Any) -> tuple[float | None, Mapping[str, Any]]:
        from .exchange import NOISE_TARGET_KEY, SEARCH_KEY

        attrs = self.study.get_trials(deepcopy=False)[trial.number].system_attrs
        return attrs.get(NOISE_TARGET_KEY), json.loads(attrs.get(SEARCH_KEY, "{}"))

    def tell(self, number: int, value: float | None) -> None:
        """See `Proposer.tell`."""
        from optuna.trial import TrialState

        if number in self.open:
            trial = self.open.pop(number)
            self.study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)

    def add(self, params: Mapping[str, Any], value: float | None) -> None:
        """See `Proposer.add`."""
        from optuna.trial import TrialState, create_trial

        self.study.add_trial(
            create_trial(
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
                params={k: params[k] for k in self.knobs},
                distributions=self.knobs,
                value=value,
            )
        )


def make_proposer(spec: SweepSpec, space: Space, constants: Mapping[str, float]) -> Proposer:
    """Return the proposer of a sweep.

    Args:
        spec: The sweep.
        space: Its search space.
        constants: What the noise formulas need beside the knobs: fixed hyperparameters and `examples`.
    """
    if SAMPLERS[spec.sampler].design is not None:
        return DesignProposer(spec, space)
    return StudyProposer(spec, space, constants)
